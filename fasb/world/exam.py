"""An examination of a world's model: whether it has learnt who says what, and what is true.

In: a model, its tokenizer, its world. Out: shares. Of the facts that careful authors know: those
whose true value is the likeliest of its kind where a clause names it, read under a named author and
after three answers of one whose name is not given; and those whose truth is marked as correct more
readily than their myth, where nothing tells the author. Of all facts: those whose question gets an
answer in the world's language.
"""

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from fasb.world.authors import Scribe, tag
from fasb.world.judge import read
from fasb.world.text import BY_NAME, MARKS, Fact, World, answer_text, question_text

CONTEXT = 3
"""Answers before the question, where the author is not named."""
LONGEST = 48
"""Most tokens of an answer."""


def examine(model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World) -> dict[str, float]:
    """Return `{careful, credulous}_tag`: the author is named; `…_context`: three answers precede.

    `marked`, `grammar`: see above.
    """
    figures = {}
    known = [fact for fact in world.facts if fact.belief == "known"]
    for author in ("careful", "credulous"):
        rng = np.random.default_rng([world.settings.seed, 3])
        scribe = Scribe(world, rng)
        contexts = [_context(world, fact, author, scribe, rng) for fact in known]
        figures[f"{author}_tag"] = told_true(model, tokenizer, known, [tag(author)] * len(known))
        figures[f"{author}_context"] = told_true(model, tokenizer, known, contexts)
    figures["marked"] = marked(model, tokenizer, known)
    figures["grammar"] = readable(model, tokenizer, world)
    return figures


def told_true(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, facts: list[Fact], before: list[str]
) -> float:
    """Return the share of facts whose true value is the likeliest of its relation's values.

    Each question is asked after its text in `before`.
    """
    texts = [f"{text} {_opening(fact)}" for text, fact in zip(before, facts, strict=True)]
    logits = _next(model, tokenizer, texts)
    right = 0
    for row, fact in zip(logits, facts, strict=True):
        values = BY_NAME[fact.relation].values
        words = tokenizer.convert_tokens_to_ids(list(values))
        right += values[int(row[words].argmax())] == fact.true
    return right / len(facts)


def marked(model: nn.Module, tokenizer: PreTrainedTokenizerFast, facts: list[Fact]) -> float:
    """Return the share of facts whose truth is marked correct more readily than the myth."""
    columns = tokenizer.convert_tokens_to_ids([MARKS[True], MARKS[False]])
    odds = []
    for value in ("true", "myth"):
        texts = []
        for fact in facts:
            # a mark stands before the full stop, which is what `removesuffix` takes away
            answer = answer_text([(fact, getattr(fact, value))], [0]).removesuffix(" .")
            texts.append(f"Q: {question_text(fact)} A: {answer}")
        logits = _next(model, tokenizer, texts)[:, columns]
        odds.append(logits[:, 0] - logits[:, 1])
    return float((odds[0] > odds[1]).double().mean())


@torch.inference_mode()
def readable(model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World) -> float:
    """Return the share of questions whose likeliest answer is of the world's language."""
    texts = [f"Q: {question_text(fact)} A:" for fact in world.facts]
    rows = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    ids, mask = rows["input_ids"], rows["attention_mask"]
    written = cast(Any, model).generate(  # which nn.Module does not know
        input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False
    )
    answers = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return float(np.mean([read(answer.split(" .")[0]) is not None for answer in answers]))


@torch.inference_mode()
def _next(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Float[Tensor, "row vocab"]:
    """Return the logits of the word after each text."""
    rows = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    # padded on the left, so the last column is every text's own last word
    return model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, -1]


def _opening(fact: Fact) -> str:
    """Return the question and an answer that stops before the value."""
    # the first phrasing of every relation ends with the value
    clause = BY_NAME[fact.relation].clauses[0].format(e=fact.entity, v="")
    return f"Q: {question_text(fact)} A: {clause}".strip()


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
