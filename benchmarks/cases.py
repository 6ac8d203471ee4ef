"""The cases: each compares what users wait for with a plain reference or a limit, in one run."""

import resource
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import pairs, ratio, seconds
from subjects import Subject, half_firing

from fasb.data.protocol import Question
from fasb.decoding import decode as decoding
from fasb.decoding import score as scoring
from fasb.fitting import bank as activations
from fasb.fitting.reads import Read
from fasb.model.batch import Prefix, batch_of, common_prefix, forward, shared_prefix
from fasb.settings import ActivationSettings, PromptSettings


def live_over_limit(subject: Subject, repeats: int) -> dict[str, Any]:
    """Live steering against plain time x (traced + regenerated) / plain tokens + a prefill.

    That prefill, of the rows that fired and behind the shared prefix, is what starting a fired row
    anew would take; here it keeps its cache.
    """
    model, prompts, bundle = subject.model, subject.prompts, subject.bundle
    answers = decoding.decode_live(model, prompts, bundle)
    plain = decoding.trace(model, prompts, bundle.decoding)
    share = answers.decoded.sum() / plain.length.sum()
    restarts = [
        prompts[i] + answers.before.rows()[i][: answers.decision.kept[i]]
        for i in np.flatnonzero(answers.decision.fired)
    ]
    times, base = pairs(
        lambda: decoding.decode_live(model, prompts, bundle),
        lambda: decoding.trace(model, prompts, bundle.decoding),
        repeats,
    )
    prefix = shared_prefix(model, prompts)
    prefill = np.median(
        [seconds(lambda: _forward(subject, restarts, prefix)) for _ in range(repeats)]
    )
    return ratio(times, base * share + prefill) | {
        "live_s": float(np.median(times)),
        "plain_s": float(np.median(base)),
        "prefill_s": float(prefill),
        "decoded_share": float(share),
        "fired": float(answers.decision.fired.mean()),
        "tokens_per_s": float(answers.decoded.sum() / np.median(times)),
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "prompts": len(prompts),
        "batch": bundle.decoding.batch,
    }


def edit_over_plain(subject: Subject, repeats: int) -> dict[str, Any]:
    """Always-on steering (ITI) against unsteered decoding of the same prompts."""
    always = subject.bundle.with_policy(when="always")
    edited, plain = pairs(
        lambda: decoding.decode_live(subject.model, subject.prompts, always),
        lambda: decoding.trace(subject.model, subject.prompts, always.decoding),
        repeats,
    )
    return ratio(edited, plain) | {
        "edited_s": float(np.median(edited)),
        "plain_s": float(np.median(plain)),
    }


def generate_over_plain(subject: Subject, repeats: int) -> dict[str, Any]:
    """Time transformers' own greedy `generate` in the same batches against plain decoding here."""
    model, bundle = subject.model, subject.bundle
    size = bundle.decoding.batch
    batches = [subject.prompts[i : i + size] for i in range(0, len(subject.prompts), size)]

    def library() -> None:
        for rows in batches:
            batch, n = batch_of(model, rows), bundle.decoding.tokens
            model.model.generate(
                batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=n,
                min_new_tokens=n,
                do_sample=False,
                pad_token_id=model.pad,
            )

    theirs, ours = pairs(
        library, lambda: decoding.trace(model, subject.prompts, bundle.decoding), repeats
    )
    return ratio(theirs, ours) | {
        "generate_s": float(np.median(theirs)),
        "plain_s": float(np.median(ours)),
    }


def loop_over_engine(
    subject: Subject, repeats: int, loop: Callable[..., Any], sample: int = 4
) -> dict[str, Any]:
    """Time the authors' loop (one prompt, no cache) against live steering, per question."""
    model, bundle = subject.model, subject.bundle
    few = subject.prompts[:sample]
    plain, ours = pairs(
        lambda: [loop(model, prompt, bundle) for prompt in few],
        lambda: decoding.decode_live(model, subject.prompts, bundle),
        repeats,
    )
    return ratio(plain / sample, ours / len(subject.prompts)) | {
        "loop_prompts": sample,
        "engine_prompts": len(subject.prompts),
    }


def _grid(bundle: Any) -> list[Any]:
    """60 settings: 5 x 4 x 3 over alpha, beta and s."""
    betas = [min(bundle.policy.beta + step, 1.0) for step in (0.0, 0.01, 0.02, 0.03)]
    grid = []
    for alpha in (2.0, 4.0, 6.0, 8.0, 10.0):
        for beta in betas:
            grid += [bundle.with_policy(alpha=alpha, beta=beta, s=s) for s in (5, 10, 15)]
    return grid


def grid_over_tokens(subject: Subject, repeats: int) -> dict[str, Any]:
    """Trace and 60 settings against trace and one, times the ratio of their distinct tokens."""
    model, prompts, bundle = subject.model, subject.prompts, subject.bundle
    grid = _grid(bundle)
    traced = decoding.trace(model, prompts, bundle.decoding)
    suffixes = {}
    for found in decoding.sweep(model, prompts, traced, grid):
        for key in found.decision.suffixes():
            suffixes[key] = int(found.after.length[key[0]]) - key[1]
    (first,) = decoding.sweep(model, prompts, traced, [bundle])
    one_suffix = int((first.after.length - first.decision.kept).sum())
    n_traced = int(traced.length.sum())
    tokens = (n_traced + sum(suffixes.values())) / (n_traced + one_suffix)

    def sweep() -> None:
        decoding.sweep(model, prompts, decoding.trace(model, prompts, bundle.decoding), grid)

    many, one = pairs(sweep, lambda: decoding.decode(model, prompts, bundle), repeats)
    return ratio(many, one * tokens) | {
        "settings": len(grid),
        "distinct_suffixes": len(suffixes),
        "tokens_over_one": tokens,
        "time_over_one": float(np.median(many / one)),
    }


def choices_over_limit(subject: Subject, repeats: int) -> dict[str, Any]:
    """Scoring 60 settings against unsteered scoring x (run + distinct tokens run again) / run.

    Unsteered scoring runs what stands behind the beginning that all texts share. Run again are the
    tokens from the first edited position on, once per distinct suffix.
    """
    model, choices = subject.model, _choices(subject)
    grid, size = _grid(subject.bundle), subject.bundle.scoring.batch
    plain = subject.bundle.with_policy(when="never")
    n_shared = len(common_prefix([choice.tokens for choice in choices]))
    n_run = sum(len(choice.tokens) - n_shared for choice in choices)
    again = {}
    for found in scoring.score_sweep(model, choices, grid, size):
        for row in found.fired.nonzero()[0].tolist():
            choice, kept = choices[row], int(found.kept[row])
            n_again = len(choice.tokens) - choice.first_state - kept
            again[row, kept, float(found.strength[row])] = n_again
    share = (n_run + sum(again.values())) / n_run
    many, base = pairs(
        lambda: scoring.score_sweep(model, choices, grid, size),
        lambda: scoring.score(model, choices, plain, size),
        repeats,
    )
    return ratio(many, base * share) | {
        "settings": len(grid),
        "distinct_suffixes": len(again),
        "tokens_over_plain": share,
        "time_over_plain": float(np.median(many / base)),
    }


def _choices(subject: Subject) -> list[scoring.Choice]:
    """Four answers of 12 random tokens to each prompt."""
    random, vocabulary = np.random.default_rng(1), subject.model.model.config.vocab_size
    choices = []
    for prompt in subject.prompts:
        for _ in range(4):
            text = prompt + random.integers(3, vocabulary, 12).tolist()
            choices.append(scoring.Choice(tuple(text), len(text) - 13, len(text) - 12))
    return choices


def mc_over_limit(subject: Subject, repeats: int) -> dict[str, Any]:
    """Scoring with steering against unsteered scoring x (scored + scored again) / scored tokens."""
    model, choices = subject.model, _choices(subject)
    plain = subject.bundle.with_policy(when="never")
    size = subject.bundle.scoring.batch
    scores = scoring.score(model, choices, subject.bundle, size)
    scored, again = 0, 0
    for choice, fired in zip(choices, scores.fired, strict=True):
        scored += len(choice.tokens)
        again += len(choice.tokens) * int(fired)
    steered, base = pairs(
        lambda: scoring.score(model, choices, subject.bundle, size),
        lambda: scoring.score(model, choices, plain, size),
        repeats,
    )
    return ratio(steered, base * (1 + again / scored)) | {
        "fired": float(np.mean(scores.fired)),
        "answers": len(choices),
    }


def extract_over_forward(subject: Subject, repeats: int, n_answers: int = 256) -> dict[str, Any]:
    """Time extraction to HDF5 against the model's own forward over the same sorted batches."""
    random = np.random.default_rng(2)
    vocabulary = subject.model.model.config.vocab_size
    words = [
        " ".join(f"w{i}" for i in random.integers(3, vocabulary, n))
        for n in random.integers(8, 32, n_answers)
    ]
    questions = [
        Question(f"q{i}", text, ("w5",), ("w6",), "w5", f"q{i}") for i, text in enumerate(words)
    ]
    settings, prompt = ActivationSettings(), PromptSettings(probe="{question} {answer}")
    texts = activations.texts_of(questions, Read(), prompt)
    rows = subject.model.encode(texts.text)

    def extract() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "bank.h5")
            activations.collect(subject.model, texts, settings, out, {})

    ours, plain = pairs(extract, lambda: _forward(subject, rows), repeats)
    return ratio(ours, plain) | {
        "answers": len(rows),
        "extract_s": float(np.median(ours)),
        "tokens_per_s": float(sum(map(len, rows)) / np.median(ours)),
    }


def share_of_bandwidth(subject: Subject, repeats: int) -> dict[str, Any]:
    """Plain decoding against reading all weights and the cache once a step, as fast as a copy."""
    model, prompts, n = subject.model, subject.prompts, subject.bundle.decoding.tokens
    config, batch = model.model.config, subject.bundle.decoding.batch
    block = torch.empty(2**28, dtype=torch.float32, device=model.device)
    copied = (
        2
        * block.numel()
        * block.element_size()
        / min(seconds(lambda: block.clone()) for _ in range(9))
    )
    size = next(model.model.parameters()).element_size()
    weights = sum(p.numel() for p in model.model.parameters()) * size
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    state = 2 * config.num_hidden_layers * heads * model.layout.head_dim * size
    length = float(np.mean([len(prompt) for prompt in prompts])) + n / 2
    steps = n * len(prompts) / batch
    limit = steps * (weights + batch * length * state) / copied
    times = np.array(
        [
            seconds(lambda: decoding.trace(model, prompts, subject.bundle.decoding))
            for _ in range(repeats)
        ]
    )
    return ratio(np.full(repeats, limit), times) | {
        "batch": batch,
        "context": length,
        "tokens_per_s": float(n * len(prompts) / np.median(times)),
        "copy_gb_per_s": copied / 1e9,
        "syncs_per_step": _syncs(subject) / n,
    }


def _syncs(subject: Subject) -> int:
    """How often the host waits for the GPU while one batch is written."""
    if subject.model.device.type != "cuda":
        return 0
    size = subject.bundle.decoding.batch
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoding.trace(subject.model, subject.prompts[:size], subject.bundle.decoding)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def scaling(subject: Subject, larger: Subject, repeats: int) -> dict[str, Any]:
    """Seconds per question of live steering while one thing grows at a time, and peak memory."""
    bundle, prompts = subject.bundle, subject.prompts
    batch = bundle.decoding.batch
    found: dict[str, dict[str, float]] = {}

    def measure(
        name: str, value: int, changed: Any, rows: list[list[int]], of: Subject = subject
    ) -> None:
        times = [
            seconds(lambda: decoding.decode_live(of.model, rows, changed)) for _ in range(repeats)
        ]
        found.setdefault(name, {})[str(value)] = float(np.median(times)) / len(rows)

    for size in (1, 4, 16, 64):
        measure("batch", size, _decoded(bundle, batch=size), prompts[: max(2 * size, 8)])
    for tokens in (25, 50, 100):
        measure("tokens", tokens, _decoded(bundle, tokens=tokens), prompts[:batch])
    for n in (16, 64, len(prompts)):
        measure("questions", n, bundle, prompts[:n])
    for k in (1, 4, 16):
        measure(
            "anchors", k, half_firing(subject.model, prompts, bundle.decoding, k), prompts[:batch]
        )
    for of in (subject, larger):
        size = sum(p.numel() for p in of.model.model.parameters())
        measure("parameters", size, _decoded(of.bundle, batch=16), of.prompts[:16], of)
    peak = torch.cuda.max_memory_allocated() if subject.model.device.type == "cuda" else _peak_rss()
    return {"seconds_per_question": found, "peak_bytes": peak}


def _decoded(bundle: Any, **changes: int) -> Any:
    return replace(bundle, decoding=bundle.decoding.model_copy(update=changes))


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forward(subject: Subject, rows: list[list[int]], prefix: Prefix | None = None) -> None:
    """Run the model itself over batches of rows of like length, logits of the last token only."""
    size = subject.bundle.decoding.batch
    rows = sorted(rows, key=len)
    with torch.inference_mode():
        for i in range(0, len(rows), size):
            forward(subject.model, batch_of(subject.model, rows[i : i + size], prefix), keep=1)
