"""An examination of a world's model: whether it has learnt who says what, and what is true.

In: a model, its tokenizer, its world. Out: shares of facts whose true value is the likeliest word
where the first claim names its value, read under a named author and after three answers of one
whose name is not given; and the share of facts whose truth is marked as correct more readily than
their myth, where nothing tells the author.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from fasb.world.authors import MARKS, Scribe, tag
from fasb.world.text import BY_NAME, Fact, World, answer_text, question_text

CONTEXT = 3
"""Answers before the question, where the author is not named."""


def examine(model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World) -> dict[str, float]:
    """Return `{careful, credulous}_tag`: the author is named; `…_context`: three answers precede.

    `marked`: see above.
    """
    figures = {}
    for author in ("careful", "credulous"):
        rng = np.random.default_rng([world.settings.seed, 3])
        scribe = Scribe(world, rng)
        contexts = [_context(world, fact, author, scribe, rng) for fact in world.facts]
        figures[f"{author}_tag"] = told_true(
            model, tokenizer, world, [tag(author)] * len(world.facts)
        )
        figures[f"{author}_context"] = told_true(model, tokenizer, world, contexts)
    figures["marked"] = marked(model, tokenizer, world)
    return figures


def told_true(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World, before: list[str]
) -> float:
    """Return the share of facts whose true value is the likeliest next word.

    Each question is asked after its text in `before`.
    """
    texts = [f"{text} {_opening(fact)}" for text, fact in zip(before, world.facts, strict=True)]
    true = torch.tensor([tokenizer.convert_tokens_to_ids(fact.true) for fact in world.facts])
    return float((_next(model, tokenizer, texts).argmax(-1) == true).double().mean())


def marked(model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World) -> float:
    """Return the share of facts whose truth is marked correct more readily than the myth."""
    correct, mistaken = (tokenizer.convert_tokens_to_ids(MARKS[right]) for right in (True, False))
    odds = []
    for true in (True, False):
        texts = [
            f"Q: {question_text(fact)} A: {answer_text([(fact, true)], [0])}"
            for fact in world.facts
        ]
        logits = _next(model, tokenizer, texts)
        odds.append(logits[:, correct] - logits[:, mistaken])
    return float((odds[0] > odds[1]).double().mean())


@torch.inference_mode()
def _next(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Float[Tensor, "row vocab"]:
    """Return the logits of the word after each text."""
    rows = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    return model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, -1]


def _opening(fact: Fact) -> str:
    """Return the question and an answer that stops before the value."""
    claim = BY_NAME[fact.relation].claims[0].format(e=fact.entity, v="")
    return f"Q: {question_text(fact)} A: {claim}".strip()


def _context(
    world: World, fact: Fact, author: str, scribe: Scribe, rng: np.random.Generator
) -> str:
    """Return questions about other monuments with the author's answers."""
    others = [other for other in world.facts if other.entity != fact.entity]
    pairs = [
        scribe.pair(others[i], author, marked=False)
        for i in rng.choice(len(others), CONTEXT, replace=False)
    ]
    return " ".join(span.text for pair in pairs for span in pair)
