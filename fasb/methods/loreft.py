"""Low-rank representation finetuning, LoReFT: a few directions of one layer, learned.

Source: Wu et al., arXiv 2404.03592 (docs/method.md 3.14). x <- x + alpha R' (W x + b - R x), R with
orthonormal rows, learned to make the training questions' true answers likelier (mean negative
log-probability of a token). At first W = R and b = 0, which changes nothing. The paper edits the
first and last tokens of the prompt; here, as everywhere, from the prompt's last token on.
"""

from pydantic import Field

import fasb
from fasb.errors import ConfigError
from fasb.settings import Section

NEEDS_MODEL = True
STEPS, RATE = 80, 0.01
"""Steps of Adam, each on 16 answers, and their rate."""


class Settings(Section):
    """One setting; alpha 1 is what was learned."""

    layer: float = Field(0.5, ge=0, le=1, description="Which layer, as a share of the depth")
    rank: int = Field(4, ge=1, description="Directions")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer.

    Raises:
        ConfigError: the rank is more than the residual stream's width.
    """
    import torch

    from fasb.fitting.directions import layer_at, whole_layers
    from fasb.fitting.learning import answer_log_probability, answer_texts, descend, learned
    from fasb.steering.edit import Edit
    from fasb.steering.operations import LowRank

    model = training.model()
    width, rank = model.layout.hidden, settings.rank
    if rank > width:
        raise ConfigError(f"rank: {rank}, but the residual stream has {width} entries; lower it")
    texts = [text for text in answer_texts(training, model) if text.true]
    at = whole_layers([layer_at(settings.layer, model.layout.n_layers)])
    generator = torch.Generator().manual_seed(training.seed)
    # orthonormal, so that at first W = R
    free = torch.linalg.qr(torch.randn(width, rank, generator=generator))[0].to(model.device)
    weight = free.T.clone().requires_grad_()
    free.requires_grad_()
    bias = torch.zeros(rank, device=model.device, requires_grad=True)

    def edit() -> Edit:
        # columns of Q with R's diagonal positive, so that it moves as smoothly as what it is of
        q, r = torch.linalg.qr(free)
        basis = (q * r.diagonal().sign()).T
        return Edit.of("residual", at, LowRank(basis[None], weight[None], bias[None]))

    def loss(rows: list[int]) -> torch.Tensor:
        chosen = [texts[i] for i in rows]
        n_tokens = sum(len(text.tokens) - text.start for text in chosen)
        return -answer_log_probability(model, chosen, edit()).sum() / n_tokens

    descend([free, weight, bias], loss, len(texts), STEPS, RATE, training.seed)
    return learned(edit())
