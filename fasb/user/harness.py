"""A model under a bundle for EleutherAI's lm-evaluation-harness.

    import lm_eval
    from fasb.user.harness import SteeredLM

    lm_eval.simple_evaluate(SteeredLM("my-model", "my.bundle"), tasks=["truthfulqa_mc1"])

In: a model, a bundle, the harness's requests. Out: log-probabilities and texts. Prompts are the
tasks' own; answers are gated and steered as those of `fasb.evaluate` are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fasb.data.prompts import Messages
from fasb.decoding.decode import decode
from fasb.decoding.observe import right_aligned
from fasb.decoding.score import Choice, score
from fasb.errors import ConfigError, ModelError
from fasb.model.batch import batch_of, forward, in_batches
from fasb.model.chat import renderer, template_of
from fasb.model.hooks import editing
from fasb.steering.bundle import Bundle
from fasb.user.steering import attach, load
from fasb.user.tasks import with_generation

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as missing:
    raise ModelError(
        f"fasb.user.harness: needs the package lm_eval ({missing}); run 'pip install fasb[harness]'"
    ) from None


@register_model("fasb")
class SteeredLM(TemplateLM):
    """A model of the harness that answers under a bundle.

    `settings` are those of `fasb.load`. A request's context is the prompt, its continuation the
    answer: gated, and edited from where it deviates. Texts are written greedily, unless a task
    samples.

    Raises:
        BundleError: the bundle was made for another model, or does nothing to this one.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        pretrained: Any,
        bundle: Bundle | str | Path,
        batch_size: int | str = 1,
        siblings: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch_size: {batch_size!r}; give a number of 1 or more")
        self.batch = int(batch_size)
        # what the harness hands on besides, and what `fasb.load` calls otherwise
        settings.pop("max_batch_size", None)
        self.loaded = load(pretrained, **{k: v for k, v in settings.items() if v is not None})
        self.bundle = attach(self.loaded, bundle, siblings)
        self.tokenizer = self.loaded.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that stands before a text without a context."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.loaded.pad)
        return int(next(token for token in known if token is not None))

    @property
    def max_length(self) -> int:
        """Tokens that the model can read at once."""
        config = self.loaded.model.config.get_text_config(decoder=True)
        return int(getattr(config, "max_position_embeddings", None) or 2048)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return str(self.loaded.fingerprint.tokenizer)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return token ids; a text that already begins with BOS gets no other."""
        begun = string.startswith(self.tokenizer.bos_token or "\0")
        special = not begun if add_special_tokens is None else add_special_tokens
        return self.loaded.encode([string], special=special)[0]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's template where the harness asks for it."""
        return str(template_of(self.loaded) or "") if chat_template else None

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True, **_: Any
    ) -> str:
        """Return a conversation as the tokenizer's template writes it (D1, D3 to D5)."""
        return renderer(self.tokenizer, self.loaded.settings.path)(
            chat_history, add_generation_prompt
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it."""
        choices = []
        for _, context, continuation in requests:
            tokens = [*(context or [self.eot_token_id]), *continuation][-self.max_length :]
            # nothing stands before the first token from which it could be predicted
            start = max(1, len(tokens) - len(continuation))
            choices.append(Choice(tuple(tokens), start - 1, start))
        scores = score(self.loaded, choices, self.bundle, self.batch)
        strengths = []
        for choice, kept, alpha in zip(choices, scores.kept, scores.strength, strict=True):
            strengths.append(choice.strengths(self.bundle.active, int(kept), float(alpha)).tolist())
        greedy = self._greedy(choices, strengths)
        return list(zip(scores.logprob.tolist(), greedy, strict=True))

    @torch.inference_mode()
    def _greedy(self, choices: Sequence[Choice], strengths: list[list[float]]) -> list[bool]:
        """Whether each scored token is the likeliest, edited as strongly as is said."""
        found = [False] * len(choices)

        def run(rows: list[int]) -> None:
            batch = batch_of(self.loaded, [choices[i].tokens for i in rows])
            # one more: the state before the first scored token predicts it
            n_last = max(len(choices[i].tokens) - choices[i].scored_start for i in rows) + 1
            with editing(self.loaded.layout, self.bundle.edit) as dial:
                part = [strengths[i] for i in rows]
                dial.strength = right_aligned(part, batch.width, self.loaded.device)
                best = forward(self.loaded, batch, keep=n_last).argmax(-1)
            for i, tokens, likeliest in zip(rows, batch.ids.tolist(), best.tolist(), strict=True):
                n = len(choices[i].tokens) - choices[i].scored_start
                found[i] = tokens[-n:] == likeliest[-n - 1 : -1]

        in_batches([len(choice.tokens) for choice in choices], self.batch, run)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of whole texts, window by window.

        As the harness's own model does, a BOS that the tokenizer adds is counted too.
        """
        found = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            parts = [(None, *utils.make_disjoint_window(window)) for window in windows]
            found.append(sum(value for value, _ in self._loglikelihood_tokens(parts)))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return texts, each up to the first of its stop strings.

        Raises:
            ConfigError: a task's `generation_kwargs` are wrong, or ask for what steering cannot
                keep (`fasb/user/tasks.py`).
        """
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            # a mapping has no hash; its text groups what is asked with the same settings
            groups.setdefault(repr(request.args[1]), []).append(i)
        found = [""] * len(requests)
        for rows in groups.values():
            bundle = with_generation(self.bundle, requests[rows[0]].args[1], self.batch)
            most = self.max_length - bundle.decoding.tokens
            if most < 1:
                raise ConfigError(f"max_gen_toks: {bundle.decoding.tokens}, the whole context")
            # as with the harness's own models, what does not fit loses its beginning, and where
            # nothing is given a text begins with this token
            encoded = [self.tok_encode(requests[i].args[0])[-most:] for i in rows]
            prompts = [prompt or [self.eot_token_id] for prompt in encoded]
            answers = decode(self.loaded, prompts, bundle)
            for i, tokens in zip(rows, answers.after.rows(), strict=True):
                text = self.loaded.decode(tokens)
                for stop in bundle.prompt.stop:
                    text = text.partition(stop)[0]
                found[i] = text
        return found
