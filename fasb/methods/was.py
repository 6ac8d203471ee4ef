"""Weighted activation steering, WAS: how strongly each layer is steered is learned from its state.

Source: Hegazy et al., arXiv 2505.20309 (docs/method.md 3.15). Per layer of the residual stream x <-
x + alpha sigmoid(u . x + c) v, v = mean(true) - mean(false); u and c of all layers are learned
together so that the first true answer of a training question becomes likelier than its first false
one (logistic loss of the difference of log-probabilities). The paper's one network reads a few
layers and gives all layers' weights, for refusal; here each layer's weight is a linear function of
its own state.
"""

import itertools

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

NEEDS_MODEL = True
READ = Read("residual", "answer_end")
READS = (READ,)
STEPS, RATE, START = 60, 0.02, -2.0
"""Steps of Adam, each on 16 pairs, and their rate; c at first, where a layer's weight is 0.12."""


class Settings(Section):
    """Nothing to set; alpha is the largest weight of a layer."""


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of all layers."""
    import torch

    from fasb.fitting.directions import mean_difference, whole_layers
    from fasb.fitting.learning import answer_log_probability, answer_pairs, descend, learned
    from fasb.steering.edit import Edit
    from fasb.steering.operations import ByProbe

    model, bank = training.model(), training.bank(READ)
    pairs = answer_pairs(training, model)
    rows = training.train_rows(bank)
    raw = mean_difference(bank, rows)[:, 0]
    vector = torch.from_numpy(raw).float().to(model.device)
    # a step of Adam is of one size, whatever the states' is: their mean square is taken out
    squares = [(bank.layer(layer)[rows] ** 2).mean() for layer in range(bank.n_layers)]
    scale = torch.tensor(squares).to(vector).rsqrt()[:, None] / vector.shape[1] ** 0.5
    weight = torch.zeros_like(vector, requires_grad=True)
    bias = torch.full((len(vector),), START, device=model.device, requires_grad=True)
    at = whole_layers(range(len(vector)))

    def edit() -> Edit:
        # the operation's probe says "true", whose opposite is how strongly to steer
        return Edit.of("residual", at, ByProbe(-weight * scale, -bias, vector))

    def loss(rows: list[int]) -> torch.Tensor:
        # a row's true answer, then its false one
        chosen = list(itertools.chain.from_iterable(pairs[i] for i in rows))
        logprob = answer_log_probability(model, chosen, edit()).reshape(-1, 2)
        return torch.nn.functional.softplus(logprob[:, 1] - logprob[:, 0]).mean()

    descend([weight, bias], loss, len(pairs), STEPS, RATE, training.seed)
    return learned(edit())
