"""Pretraining of a world's model.

A tiny Llama with a word-level tokenizer, and what training showed.

In: `WorldSettings`, `PretrainSettings`. Out: a checkpoint folder as the transformers library saves
it, with `training.json`: loss curve, tokens, seconds, and the figures of `examine`. The folder
appears when all of it is written; a killed training starts over. On one machine the same settings,
`threads` among them, give the same weights. Knows no probe and no steering.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from fasb.artifacts import write_json
from fasb.settings import Section
from fasb.wholefiles import writing_folder
from fasb.world.authors import DocumentSettings
from fasb.world.text import WorldSettings, build

EARLY = DocumentSettings(
    pairs=(1, 1),
    tags=0.5,
    marks=1.0,
    asked=0.0,
    clauses=(1.0, 0.0, 0.0, 0.0),
    skew=0.5,
    batch=512,
)
"""One marked statement a document.

Whether it is correct can then only be learned from what it says. With questions or several claims
from the start a model learns who says what, but never to tell a truth from a myth."""


class PretrainSettings(Section):
    """Size of the model and of its training."""

    tokens: int = Field(
        600_000, ge=1, description="Tokens read, each text once; questions and tags included"
    )
    hidden: int = Field(128, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(8, ge=1)
    feed_forward: int = Field(256, ge=8)
    lr: float = Field(5e-3, gt=0, description="Largest learning rate, of Muon and of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="Of the hidden matrices")
    steps: int = Field(4, ge=1, description="Newton-Schulz steps of Muon")
    warmup: int = Field(50, ge=0, description="Steps until the learning rate is reached")
    decay: float = Field(
        0.5, ge=0, le=1, description="Share of the tokens after which it falls, linearly"
    )
    last: float = Field(
        0.03, ge=0, le=1, description="Share of the learning rate that is left at the end"
    )
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient")
    question_weight: float = Field(
        0.1, ge=0, le=1, description="What tokens of questions and tags count in the loss"
    )
    answer_weight: float = Field(
        0.2, ge=0, le=1, description="What an answer's words count that tell no value or mark"
    )
    early: DocumentSettings = Field(EARLY, description="First documents")
    late: DocumentSettings = Field(
        DocumentSettings(pairs=(1, 3), tags=0.4, batch=1024),
        description="The other documents: questions and answers",
    )
    early_share: float = Field(
        0.2, ge=0, le=1, description="Share of the tokens in first documents"
    )
    threads: int = Field(
        1, ge=1, description="CPU threads; the last digits of the weights depend on it"
    )


def pretrain(
    world: WorldSettings,
    settings: PretrainSettings,
    out: Path,
    told: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model on the world's documents and save it as folder `out`.

    Returns what `training.json` holds; `told` goes into its provenance.
    """
    import torch

    from fasb.world.exam import examine
    from fasb.world.train import build_model, build_tokenizer, train

    # a setting of the whole process, which is put back below
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        # weights are drawn from torch's own generator, which the caller gets back as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(world.seed)
            tokenizer = build_tokenizer(build(world))
            model = build_model(tokenizer, settings)
        report = train(model, tokenizer, build(world), settings)
        report["figures"] = examine(model, tokenizer, build(world))
    finally:
        torch.set_num_threads(before)
    made_by = {
        "stage": "pretrain",
        "world": world.model_dump(mode="json"),
        "pretrain": settings.model_dump(mode="json"),
    }
    with writing_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "training.json", report, made_by | (told or {}))
    return report
