"""How far log-probabilities of answers are from those of the lm-evaluation-harness.

    python benchmarks/harness.py --model models/smollm2 --data FOLDER

FOLDER has TruthfulQA's files. Asks the first questions of the set, as plain text and through the
model's chat template, and scores each question's best and first false answer in both programs.
Needs `pip install 'fasb[harness]'`; docs/benchmarks.md has what was measured.
"""

import argparse
from collections.abc import Sequence

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
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    prompt = settled(model, prompt)
    never = Bundle(Policy(when="never"))
    own = score(model, encode_choices(model, prompt, ScoringSettings(batch=BATCH), pairs), never)
    theirs = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=BATCH)
    requests = []
    for i, (question, answer) in enumerate(pairs):
        given = (f"Q: {question}\nA:", f" {answer}")
        if prompt.chat == "on":
            asked = theirs.apply_chat_template([{"role": "user", "content": question}])
            given = (asked, answer)
        requests.append(Instance("loglikelihood", {}, given, i))
    found = theirs.loglikelihood(requests, disable_tqdm=True)
    return own.logprob - np.array([value for value, _ in found])


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
    for question in questions:
        pairs += [(question.text, question.best), (question.text, question.false[0])]
    for name, prompt in PROMPTS.items():
        apart = np.abs(differences(model, pairs, prompt))
        print(
            f"{name:5}  {len(questions)} questions, {len(pairs)} answers: largest difference "
            f"{apart.max():.1e} nats, mean {apart.mean():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
