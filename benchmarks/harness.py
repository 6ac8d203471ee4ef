"""How far log-probabilities of answers are from those of the lm-evaluation-harness.

    python benchmarks/harness.py --model models/smollm2 --data FOLDER

FOLDER has TruthfulQA's files. Asks the first questions of the set, as plain text and through the
model's chat template, and scores an answer of each in both programs: true and false ones in turn.
Needs `pip install 'fasb[harness]'`; docs/benchmarks.md has what was measured.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from fasb.data import truthfulqa
from fasb.decoding.score import encode_choices, score
from fasb.model.chat import settled
from fasb.model.load import LoadedModel, load_model
from fasb.settings import ModelSettings, PromptSettings, ScoringSettings
from fasb.steering.bundle import Bundle
from fasb.steering.policy import Policy

PROMPTS = {"plain": PromptSettings(), "chat": PromptSettings(chat="auto")}
BATCH = 16


def differences(
    model: LoadedModel, pairs: Sequence[tuple[str, str]], prompt: PromptSettings
) -> np.ndarray:
    """Return each (question, answer)'s log-probability minus the harness's own model's, in nats."""
    from lm_eval.models.huggingface import HFLM

    prompt = settled(model, prompt)
    never = Bundle(Policy(when="never"))
    own = score(model, encode_choices(model, prompt, ScoringSettings(batch=BATCH), pairs), never)
    theirs = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=BATCH)
    if prompt.chat == "off":
        asked = [(f"Q: {question}\nA:", f" {answer}") for question, answer in pairs]
        return own.logprob - _scored(theirs, asked)
    asked, ends = [], []
    for question, answer in pairs:
        before = theirs.apply_chat_template([{"role": "user", "content": question}])
        asked.append((before, answer))
        ends.append((before.rstrip(), before[len(before.rstrip()) :]))
    # the harness counts white space that a template ends with as the answer's; taken off again
    distinct = [end for end in dict.fromkeys(ends) if end[1]]
    counted = dict(zip(distinct, _scored(theirs, distinct), strict=True))
    return own.logprob - _scored(theirs, asked) + np.array([counted.get(end, 0.0) for end in ends])


def _scored(model: Any, asked: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return what the harness's model says of (context, continuation)."""
    from lm_eval.api.instance import Instance

    if not asked:
        return np.zeros(0)
    requests = [Instance("loglikelihood", {}, one, i) for i, one in enumerate(asked)]
    return np.array([value for value, _ in model.loglikelihood(requests, disable_tqdm=True)])


def main() -> None:
    """Measure, and print a line for each prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder with TruthfulQA's files")
    parser.add_argument("--questions", type=int, default=100)
    given = parser.parse_args()
    model = load_model(ModelSettings(path=given.model))
    questions = truthfulqa.load(truthfulqa.Settings(path=given.data))[: given.questions]
    pairs = []
    for i, question in enumerate(questions):
        pairs.append((question.text, question.false[0] if i % 2 else question.best))
    for name, prompt in PROMPTS.items():
        apart = np.abs(differences(model, pairs, prompt))
        print(
            f"{name:5}  {len(pairs)} questions: largest difference {apart.max():.1e} nats, "
            f"mean {apart.mean():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
