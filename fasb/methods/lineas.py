"""Linear end-to-end activation steering, LinEAS: affine maps of all layers, learned together.

Source: Rodriguez et al., arXiv 2503.10679 (docs/method.md 3.13). Per layer and entry of the
residual stream x <- x + alpha (w * x + b - x). w and b are learned so that behind all layers the
false answers' last states, edited on the way, are distributed as the true answers' are: the sum
over layers of the squared 1-D Wasserstein distances of every entry, in units of its variance.
Soft thresholds after each step leave most entries alone. At most 32 answers of each kind, unpaired.
"""

from pydantic import Field

import fasb
from fasb.errors import DataError
from fasb.settings import Section

NEEDS_MODEL = True
MOST, STEPS, RATE = 32, 100, 0.02
"""Answers of each kind; steps of Adam and their rate."""


class Settings(Section):
    """One setting; alpha 1 is the learned map."""

    sparsity: float = Field(0.002, ge=0, description="Soft threshold of w - 1 and b at each step")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of all layers."""
    import torch

    from fasb.fitting.directions import whole_layers
    from fasb.fitting.learning import answer_texts, from_answer, last_states, learned
    from fasb.model.batch import batch_of, forward
    from fasb.model.hooks import editing, recording
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Affine

    model = training.model()
    texts = answer_texts(training, model)
    n = min(MOST, sum(text.true for text in texts), sum(not text.true for text in texts))
    if n < 2:  # of one the spread is not a number
        raise DataError(f"lineas: {n} pairs of true and false answers to fit on; give two or more")
    # drawn, as neighbours are answers to one question; true and false ones need not be pairs
    order = training.chance("lineas").permutation(len(texts))
    drawn = [texts[i] for i in order]
    true = [text.tokens for text in drawn if text.true][:n]
    false = [text for text in drawn if not text.true][:n]
    goal = last_states(model, true, "residual")[0][:, :, 0].sort(0).values.to(model.device)
    spread = last_states(model, [text.tokens for text in false], "residual")[0][:, :, 0].std(0)
    spread = spread.clamp(min=1e-6).to(model.device)
    weight = torch.zeros_like(spread, requires_grad=True)  # w - 1
    bias = torch.zeros_like(spread, requires_grad=True)  # b in units of the spread
    at = whole_layers(range(model.layout.n_layers))

    def edit() -> Edit:
        return Edit.of("residual", at, Affine(1 + weight, bias * spread))

    def loss() -> torch.Tensor:
        batch = batch_of(model, [text.tokens for text in false])
        with recording(model.layout, "residual") as recorder, editing(model.layout, edit()) as dial:
            dial.strength = from_answer(false, batch)
            recorder.positions = torch.full((n,), batch.width - 1, device=model.device)
            forward(model, batch, keep=1)
            states = recorder.pop()[:, :, 0].float()  # each before its own map
        mapped = (1 + weight) * states + bias * spread
        # of two samples of one size, the 1-D Wasserstein distance matches them in order
        distance = (mapped.sort(0).values - goal) / spread
        return (distance**2).mean((0, 2)).sum()

    optimizer = torch.optim.Adam([weight, bias], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        with torch.no_grad():
            for part in (weight, bias):
                part.copy_(part.sign() * (part.abs() - settings.sparsity).clamp(min=0))
    return learned(edit())
