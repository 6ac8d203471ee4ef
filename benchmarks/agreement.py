"""How far answers in half precision agree.

Batched with one row at a time, with live steering, and with float32.

    python benchmarks/agreement.py            a small random Llama on the CPU, some ten seconds
    python benchmarks/agreement.py --device cuda --shape 7b
    python benchmarks/agreement.py --device cuda --model FOLDER_OR_HUB_ID --bundle FILE --questions
    FILE

Prints one table and writes `benchmarks/agreement.json`; docs/benchmarks.md says what the columns
mean.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects import SHAPES, subject

from fasb.artifacts import write_json
from fasb.decoding.decode import decode, decode_live
from fasb.decoding.sequences import Prompts
from fasb.model.chat import encode_prompts
from fasb.model.load import LoadedModel, load_model
from fasb.provenance import surroundings
from fasb.settings import ModelSettings
from fasb.steering.bundle import Bundle
from fasb.steering.trace import OPEN, Answers, Trace

NEAR_BETA, NEAR_TIE = 0.01, 0.05
"""A state is near the threshold where |p - beta| is below this, near a tie where the top two logits
are this close."""

RUNS = {
    "one row": "the same, one row at a time",
    "live": "the same, live",
    "float32": "the same weights in float32",
}


def report(
    model: LoadedModel, prompts: Prompts, bundle: Bundle, dtype: torch.dtype
) -> dict[str, Any]:
    """Compare the engine's batched answers in `dtype` with each of `RUNS`.

    The model is left in float32, rounded to it.
    """
    model.model.to(dtype)
    batched = decode(model, prompts, bundle)
    alone = bundle.decoding.model_copy(update={"batch": 1})
    others = {
        "one row": decode(model, prompts, replace(bundle, decoding=alone)),
        "live": decode_live(model, prompts, bundle),
    }
    gaps = top_two_gaps(model, prompts, batched.before)
    model.model.float()
    others["float32"] = decode(model, prompts, bundle)
    return {
        "rows": len(prompts),
        "dtype": str(dtype).removeprefix("torch."),
        "batch": bundle.decoding.batch,
        "fired": float(batched.decision.fired.mean()),
        "near_beta": near_beta(batched, bundle.policy.beta),
        "near_tie": _counts([gap < NEAR_TIE for gap in gaps]),
        "against": {name: agreement(batched, other, gaps) for name, other in others.items()},
    }


def agreement(one: Answers, other: Answers, gaps: list[np.ndarray]) -> dict[str, Any]:
    """Shares of rows with equal tokens and equal decisions, and where the others part."""
    return {
        "unsteered": tokens(one.before, other.before, gaps),
        "answers": tokens(one.after, other.after, None),
        "fired": float((one.decision.fired == other.decision.fired).mean()),
        "kept": float((one.decision.kept == other.decision.kept).mean()),
    }


def tokens(one: Trace, other: Trace, gaps: list[np.ndarray] | None) -> dict[str, Any]:
    """Share of rows whose tokens are equal.

    Steps at which the others first differ, and how many of them near a tie.
    """
    parts = [parting(one, other, row) for row in range(len(one.length))]
    parted = [(row, step) for row, step in enumerate(parts) if step is not None]
    steps = [step for _, step in parted]
    found: dict[str, Any] = {"equal": 1 - len(parted) / len(parts), "first_difference": steps}
    if steps:
        found["quartiles"] = np.quantile(steps, [0.25, 0.5, 0.75]).tolist()
    if gaps is not None:
        found["near_tie"] = sum(
            step < len(gaps[row]) and bool(gaps[row][step] < NEAR_TIE) for row, step in parted
        )
    return found


def parting(one: Trace, other: Trace, row: int) -> int | None:
    """Return the first step at which a row differs.

    None where it does not, or one was left unfinished before it did.
    """
    a, b = (trace.tokens[row, : trace.length[row]] for trace in (one, other))
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    if len(differs):
        return int(differs[0])
    shorter = one if len(a) < len(b) else other
    return None if len(a) == len(b) or shorter.ended[row] == OPEN else n


def near_beta(answers: Answers, beta: float) -> dict[str, int]:
    """States of the unsteered answers whose p is close to beta, and rows with any."""
    p = answers.before.p
    return _counts(
        [] if p is None else [np.abs(row[~np.isnan(row)] - beta) < NEAR_BETA for row in p]
    )


def top_two_gaps(model: LoadedModel, prompts: Prompts, trace: Trace) -> list[np.ndarray]:
    """Per row and step, by how much the logit of the token that was chosen leads the next.

    One plain pass per row.
    """
    found = []
    for prompt, written in zip(prompts, trace.rows(), strict=True):
        ids = torch.tensor([[*prompt, *written]], device=model.device)
        with torch.inference_mode():
            logits = model.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        top = logits.float().topk(2, dim=-1).values
        found.append((top[:, 0] - top[:, 1]).cpu().numpy())
    return found


def _counts(near: list[np.ndarray]) -> dict[str, int]:
    return {
        "near": int(sum(row.sum() for row in near)),
        "states": sum(map(len, near)),
        "rows": int(sum(row.any() for row in near)),
    }


def table(found: dict[str, Any]) -> str:
    """One line per run that was compared with."""
    beta, tie = found["near_beta"], found["near_tie"]
    lines = [
        f"{found['rows']} rows in {found['dtype']}, batches of {found['batch']}, "
        f"{found['fired']:.0%} fired",
        f"states near beta: {beta['near']} of {beta['states']}, near a tie: {tie['near']} of "
        f"{tie['states']}",
        f"{'against':30}{'unsteered':>10}{'answers':>9}{'fired':>8}{'kept':>8}   first "
        "difference, at a tie",
    ]
    for name, row in found["against"].items():
        plain, quartiles = row["unsteered"], row["unsteered"].get("quartiles")
        steps = " / ".join(f"{step:g}" for step in quartiles) if quartiles else "none"
        lines.append(
            f"{RUNS[name]:30}{plain['equal']:10.1%}{row['answers']['equal']:9.1%}{row['fired']:8.1%}{row['kept']:8.1%}"
            f"   {steps}, {plain['near_tie']} of {len(plain['first_difference'])}"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare on a random shape, or on a model, its bundle and a file of a question a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--shape", default="world", choices=list(SHAPES))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("agreement.json"))
    options = parser.parse_args()
    if options.model and not (options.bundle and options.questions):
        parser.error("--model needs --bundle and --questions")
    if options.model:
        model = load_model(
            ModelSettings(path=options.model, dtype=options.dtype, device=options.device)
        )
        bundle = Bundle.load(options.bundle)
        questions = options.questions.read_text(encoding="utf-8").splitlines()[: options.rows]
        prompts = encode_prompts(model, bundle.prompt, questions)
    else:
        random = subject(options.shape, options.rows, batch=options.batch, device=options.device)
        model, prompts, bundle = random.model, random.prompts, random.bundle
    found = report(model, prompts, bundle, getattr(torch, options.dtype))
    print(table(found))
    write_json(
        options.out,
        found | surroundings(),
        {"model": model.fingerprint.model, "device": options.device},
    )


if __name__ == "__main__":
    main()
