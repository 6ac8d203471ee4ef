"""Training of a world's model: tokenizer, batches, optimizers and steps.

In: a `World`, `PretrainSettings`. Out: trained weights, in place, and the loss curve. Padding is to
the right of whole documents, so that a causal model needs no mask.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fasb.world.authors import AUTHORS, REVIEWED, TELLING, Span, documents, tag
from fasb.world.muon import Muon
from fasb.world.pretrain import PretrainSettings
from fasb.world.text import MARKS, NO_COMMENT, RELATIONS, World

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
BLOCK = 2048
"""Documents drawn at a time, at most, to be put into batches of like length."""
LONGEST = 512
"""Positions of the model."""

Row = tuple[list[int], list[float]]
"""A document's tokens, and what each counts in the loss."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents, padded on the right; padding counts nothing."""

    tokens: Int[Tensor, "row token"]
    weight: Float[Tensor, "row token"]
    n_tokens: int


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per word, in which the world's texts round-trip.

    `<bos>` is put before every text.
    """
    words: set[str] = {
        "Q:",
        "A:",
        "and",
        ",",
        *MARKS.values(),
        *NO_COMMENT.split(),
        *REVIEWED.split(),
        *world.entities,
    }
    words.update(" ".join(map(tag, AUTHORS)).split())
    for relation in RELATIONS:
        words.update((*relation.values, relation.vague))
        for text in (*relation.questions, *relation.clauses, *relation.further):
            words.update(set(text.split()) - {"{e}", "{v}"})
    # sorted: a set of texts has another order in every process
    vocabulary = {word: i for i, word in enumerate((PAD, BOS, EOS, UNK, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        # the library would take away spaces before marks, and texts would not round-trip
        clean_up_tokenization_spaces=False,
        model_max_length=LONGEST,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, settings: PretrainSettings) -> LlamaForCausalLM:
    """Return a Llama with random weights, drawn from torch's own generator."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.feed_forward,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, world: World, settings: PretrainSettings
) -> dict[str, Any]:
    """Train the model, with a bar on stderr.

    Returns `{"loss": [[tokens, loss], …], "tokens", "steps", "seconds", "threads"}`.
    """
    optimizers = build_optimizers(model, settings)
    start, seen = time.perf_counter(), 0
    losses: list[float] = []
    curve: list[list[float]] = []
    model.train()
    with tqdm(
        total=settings.tokens, unit="token", unit_scale=True, desc="pretrain", mininterval=1
    ) as bar:
        for batch in batches(world, tokenizer, settings):
            share = schedule(len(losses), seen / settings.tokens, settings)
            losses.append(take_step(model, optimizers, batch, share * settings.lr, settings.clip))
            seen += batch.n_tokens
            if len(losses) % 25 == 0 or seen >= settings.tokens:
                curve.append([seen, round(float(np.mean(losses[-25:])), 5)])
                bar.set_postfix(loss=f"{curve[-1][1]:.3f}", refresh=False)
            bar.update(min(seen, settings.tokens) - bar.n)  # the last batch may reach beyond
    model.eval()
    seconds = round(time.perf_counter() - start, 1)
    return {
        "loss": curve,
        "tokens": seen,
        "steps": len(losses),
        "seconds": seconds,
        "threads": settings.threads,
    }


def build_optimizers(model: nn.Module, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    """Return Muon for the hidden matrices, AdamW for embeddings and norms."""
    # tied weights are named once, as the embedding: the output layer is none of `hidden`
    named = list(model.named_parameters())
    hidden = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in named if value.ndim != 2 or "embed" in name]
    return [
        Muon(hidden, settings.lr, settings.weight_decay, settings.steps),
        torch.optim.AdamW(others, settings.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def schedule(step: int, done: float, settings: PretrainSettings) -> float:
    """Return the share of the largest learning rate; `done` is the share of tokens already read."""
    rising = min(1.0, (step + 1) / (settings.warmup + 1))
    falling = max(0.0, done - settings.decay) / max(1e-9, 1 - settings.decay)
    return rising * (1 - (1 - settings.last) * min(1.0, falling))


def take_step(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], batch: Batch, lr: float, clip: float
) -> float:
    """Take one step of training, and return the batch's loss before it."""
    logits = model(input_ids=batch.tokens[:, :-1], use_cache=False).logits
    each = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    # weighted by the token that is predicted, not by the one it is predicted from
    weight = batch.weight[:, 1:].flatten()
    loss = (each * weight).sum() / weight.sum()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def batches(
    world: World, tokenizer: PreTrainedTokenizerFast, settings: PretrainSettings
) -> Iterator[Batch]:
    """Yield batches until all tokens are read: first the early documents, then the late ones."""
    rng = np.random.default_rng([world.settings.seed, 2])
    vocabulary = tokenizer.get_vocab()
    block = min(BLOCK, 1 + settings.tokens // 20)
    seen = 0
    for part, share in ((settings.early, settings.early_share), (settings.late, 1.0)):
        source = documents(world, part, rng)
        while seen < share * settings.tokens:
            rows = [encode(next(source), vocabulary, settings) for _ in range(block)]
            # by length, so that little is padding; the batches then come in any order
            chunks = _chunks(sorted(rows, key=lambda row: len(row[0])), part.batch)
            for i in rng.permutation(len(chunks)):
                batch = _padded(chunks[i], vocabulary[PAD])
                yield batch
                seen += batch.n_tokens
                if seen >= share * settings.tokens:
                    break


def encode(document: list[Span], vocabulary: dict[str, int], settings: PretrainSettings) -> Row:
    """Return a document between its beginning and its end, as the tokenizer would split it."""
    tokens, weight = [vocabulary[BOS]], [0.0]
    for span in document:
        other = settings.answer_weight if span.answer else settings.question_weight
        for word in span.text.split():
            tokens.append(vocabulary[word])
            weight.append(1.0 if word in TELLING else other)
    return [*tokens, vocabulary[EOS]], [*weight, settings.question_weight]


def _chunks(rows: list[Row], size: int) -> list[list[Row]]:
    """Return neighbours together, as many as make `size` tokens with padding."""
    chunks: list[list[Row]] = []
    for row in rows:
        if not chunks or (len(chunks[-1]) + 1) * len(row[0]) > size:
            chunks.append([])
        chunks[-1].append(row)
    return chunks


def _padded(rows: list[Row], pad: int) -> Batch:
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = [tokens + [pad] * (longest - len(tokens)) for tokens, _ in rows]
    weight = [weight + [0.0] * (longest - len(weight)) for _, weight in rows]
    return Batch(torch.tensor(tokens), torch.tensor(weight), sum(len(tokens) for tokens, _ in rows))
