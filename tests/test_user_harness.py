"""A model under a bundle in the lm-evaluation-harness."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from steering import some_bundle
from tiny import tiny_model

import fasb
from fasb.decoding.score import encode_choices, score
from fasb.errors import ConfigError, ModelError
from fasb.settings import PromptSettings

PAIRS = [
    ("Who lives in the old house?", "Nobody lives there."),
    ("Who lives in the old house?", "A quick brown fox."),
    ("What is the colour of the sky?", "Nobody."),
    ("Why?", "I have no comment, and that is not true."),
]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "fasb.user.harness", raising=False)
    with pytest.raises(ModelError, match=r"run 'pip install fasb\[harness\]'"):
        import fasb.user.harness  # noqa: F401


@pytest.fixture(scope="module")
def model():
    return tiny_model(dtype="float32")


@pytest.fixture(scope="module")
def bundle(model):
    return some_bundle(model, tokens=8, s=2, alpha=6.0)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm_eval: pip install fasb[harness]")
@pytest.mark.filterwarnings("ignore")
class TestHarness:
    """What needs the package."""

    def asked(self, kind, *arguments):
        from lm_eval.api.instance import Instance

        return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]

    def of(self, model, bundle, **settings):
        from fasb.user.harness import SteeredLM

        return SteeredLM(model, bundle, **{"batch_size": 2, **settings})

    def likelihoods(self, asking):
        texts = [(f"Q: {question}\nA:", f" {answer}") for question, answer in PAIRS]
        return asking.loglikelihood(self.asked("loglikelihood", *texts), disable_tqdm=True)

    def test_unsteered_it_is_the_harnesss_own_model(self, model, bundle):
        from lm_eval.models.huggingface import HFLM

        never = replace(bundle, policy=fasb.Policy(when="never"))
        own = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=2)
        mine, theirs = self.of(model, never), own
        for (a, greedy), (b, best) in zip(
            self.likelihoods(mine), self.likelihoods(theirs), strict=True
        ):
            assert a == pytest.approx(b, abs=1e-3)
            assert greedy == best
        texts = [("The quick brown fox jumps over the lazy dog.",)]
        rolled = self.asked("loglikelihood_rolling", *texts)
        (found,) = mine.loglikelihood_rolling(rolled)
        assert found == pytest.approx(own.loglikelihood_rolling(rolled, True)[0], abs=1e-3)

    def test_what_greedy_decoding_writes_is_called_greedy(self, model, bundle):
        asking = self.of(model, replace(bundle, policy=fasb.Policy(when="never")))
        tokens = asking.tok_encode("Q: Why?")
        written = model.model.generate(
            torch.tensor([tokens]), max_new_tokens=3, do_sample=False, pad_token_id=model.pad
        )[0, len(tokens) :].tolist()
        other = [*written[:-1], (written[-1] + 1) % 100]
        requests = [(None, tokens, written), (None, tokens, other)]
        assert [best for _, best in asking._loglikelihood_tokens(requests)] == [True, False]

    def test_choices_are_scored_as_evaluate_scores_them(self, model, bundle):
        found = [value for value, _ in self.likelihoods(self.of(model, bundle))]
        choices = encode_choices(model, PromptSettings(), bundle.scoring, PAIRS)
        expected = score(model, choices, bundle)
        assert expected.fired.any()
        assert found == pytest.approx(expected.logprob.tolist(), abs=1e-3)

    def test_texts_are_the_steered_answers_up_to_the_stop(self, model, bundle):
        (answer,) = fasb.steer(model, bundle, "Why?")
        assert answer.fired
        how = {"until": [], "max_gen_toks": 8}
        texts = self.of(model, bundle).generate_until(
            self.asked(
                "generate_until",
                ("Q: Why?\nA:", how),
                ("Q: Why?\nA:", {**how, "until": [answer.text[2]]}),
            )
        )
        assert texts[0].strip() == answer.text
        assert texts[1] == texts[0].partition(answer.text[2])[0]

    def test_a_task_of_ones_own_runs(self, model, bundle, tmp_path):
        import lm_eval

        rows = [
            {"question": question, "choices": [answer, "No."], "label": 0}
            for question, answer in PAIRS
        ]
        (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        task = {
            "task": "mine",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tmp_path / "my.jsonl")},
                "cache_dir": str(tmp_path / "cache"),
            },
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc"}],
        }
        found = lm_eval.simple_evaluate(
            self.of(model, bundle), tasks=[task], bootstrap_iters=0, log_samples=True
        )
        pairs = [(row["question"], choice) for row in rows for choice in row["choices"]]
        choices = encode_choices(model, PromptSettings(), bundle.scoring, pairs)
        logprob = score(model, choices, bundle).logprob.reshape(-1, 2)
        assert found["results"]["mine"]["acc,none"] == (logprob[:, 0] > logprob[:, 1]).mean()

    def test_conversations_are_written_by_the_template(self, model, bundle):
        model.tokenizer.chat_template = (
            "<s>{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        )
        asking = self.of(model, bundle)
        text = asking.apply_chat_template([{"role": "user", "content": "Why?"}])
        assert text == "<s>user: Why?\nassistant: "
        assert asking.tok_encode(text).count(model.tokenizer.bos_token_id) == 1
        model.tokenizer.chat_template = None

    def test_a_wrong_batch_is_one_line(self, model, bundle):
        with pytest.raises(ConfigError, match=r"batch_size: 'auto'; give a number"):
            self.of(model, bundle, batch_size="auto")
