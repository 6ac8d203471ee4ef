"""Logistic regression of many heads, to the optimum: Newton's method, its steps by conjugate gradients.

In: head outputs and labels. Out: per head the weights and bias that minimise

    C * sum of log losses + 0.5 * |weight|^2          (scikit-learn's objective; the bias is not penalised)

Groups of heads are solved together, in float32, along gradients in float64 once that is close; in
float64 altogether where float32 cannot tell a head's directions apart. What belongs to a head is a
row, `[head, 1, ...]`: batched products with rows are fast on every device. Knows no bank and no
model.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fasb.errors import DataError

CPU_GROUP, GPU_GROUP = 2, 128
"""Heads solved together: few enough for a processor's cache, many enough to keep a GPU busy."""

STEPS = 200
"""Newton steps; more than separable data need at any C that makes sense."""

ROUGH_STEPS = 20
"""Steps after which gradients are taken in float64 even if the optimum is not close."""

CLOSE, LAST = 1e-5, 1e-7
"""Squared length of a step, relative to the weights': then gradients are float64; then it may be
the last."""

STRAIGHT = 2e-3
"""Change of the logits by a step below which the gradient is as good as linear."""

FORCING, ROUNDING = 0.01, 1e-11
"""Squared gradient that a step may leave, relative to the one before it: a rough step; and as far
as float32 gets."""

RESIDUAL = 1e-10
"""Squared distance that the last step may leave to its goal, relative to the weights' length.

By the gradient it is mostly far less than this, for no weight's curvature is below the ridge's."""

ITERATIONS = 6
"""Of conjugate gradients in a step; a Hessian takes as long as ten, and saves more where these do
not suffice."""

BLOCK = 500
"""Answers in float64 at once."""

HALVINGS = 30
"""Of a step that leads uphill."""

INDEPENDENT = {torch.float32: 1e-4, torch.float64: 0.0}
"""Share of a weight's curvature that the other weights must leave to it: rounding takes 1e-7 or
1e-16."""

TINY = 1e-22
"""Next to 0, for heads that never vary."""


def fit_logistic(
    x: Float[Tensor, "answer head head_dim"],
    label: Integer[Tensor, " answer"],
    C: float,
    bias: bool,
) -> tuple[Float[Tensor, "head head_dim"], Float[Tensor, " head"]]:
    """Weights and biases of all heads, float64, on the device of x and labels; labels are 0 and 1, and both occur.

    Head outputs count as float32. On a CPU torch's threads (`torch.set_num_threads`) share the
    heads. Memory is a float32 copy of a group of heads, for each thread; twice as much during a
    Hessian, five times where that is float64.

    Raises:
        DataError: a head has no optimum that float64 can reach.
    """
    cpu, threads = x.device.type == "cpu", torch.get_num_threads()
    groups = x.split(CPU_GROUP if cpu else GPU_GROUP, dim=1)
    workers = min(threads, len(groups)) if cpu else 1
    solution = x.new_empty(x.shape[1], x.shape[2] + 1, dtype=torch.float64)
    rows = solution.split(groups[0].shape[1])
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            shares = [
                (groups[i::workers], label.float(), C, bias, rows[i::workers])
                for i in range(workers)
            ]
            list(pool.map(_fit, *zip(*shares)))
    finally:
        torch.set_num_threads(threads)
    return solution[:, :-1], solution[:, -1]


def _fit(
    groups: tuple[Tensor, ...], label: Tensor, C: float, bias: bool, solution: tuple[Tensor, ...]
) -> None:
    """One group after the other, in the same memory: fresh pages would take longer than a step."""
    n_answers, n_heads, head_dim = groups[0].shape
    all_outputs = label.new_full((n_heads, n_answers, head_dim + 1), float(bias))
    room = label.new_empty(n_heads, BLOCK, head_dim + 1, dtype=torch.float64)
    ridge = label.new_full((head_dim + 1,), 1 / C)
    ridge[-1] = 0.0 if bias else 1.0
    for x, solved in zip(groups, solution):
        outputs = all_outputs[: x.shape[1]]
        outputs[..., :-1] = x.transpose(0, 1)
        if bias:  # which absorbs the mean; taken out, a large one slows no step
            mean = torch.bmm(torch.full_like(outputs[:, None, :, 0], 1 / n_answers), outputs)[
                ..., :-1
            ]
            outputs[..., :-1] -= mean
        solved[:] = _solve(_Problem(outputs, label, ridge, room[: x.shape[1]]))[:, 0]
        if bias:
            solved[:, -1] -= (solved[:, :-1] * mean[:, 0]).sum(1)


def _solve(problem: "_Problem") -> Float[Tensor, "head 1 width"]:
    for dtype in INDEPENDENT:
        weight = _newton(
            _Problem(problem.x.to(dtype), problem.label, problem.ridge.to(dtype), problem.room)
        )
        if weight is not None:
            return weight
    raise DataError(
        f"probes: no optimum after {STEPS} steps; lower probes.C, or look for heads with very large outputs"
    )


@dataclass(frozen=True, slots=True)
class _Point:
    """Weights of a group of heads with what is known of the objective there."""

    weight: Float[Tensor, "head 1 width"]  # float64
    z: Float[Tensor, "head 1 answer"]
    gradient: Float[Tensor, "head 1 width"]

    def curvature(self) -> Float[Tensor, "head 1 answer"]:
        """Of the losses, along the logits."""
        return torch.sigmoid(self.z) * torch.sigmoid(-self.z)


@dataclass(frozen=True, slots=True)
class _Problem:
    """The objective of a group of heads, divided by C.

    The bias is the last weight; its column of `x` is ones, or zeros without bias.
    """

    x: Float[Tensor, "head answer width"]
    label: Float[Tensor, " answer"]
    ridge: Float[Tensor, " width"]
    room: Float[Tensor, "head block width"]  # float64, for a block of answers

    def at(
        self, weight: Float[Tensor, "head 1 width"], z: Float[Tensor, "head 1 answer"]
    ) -> _Point:
        """The point whose logits are known."""
        penalty = self.ridge * weight.to(self.x.dtype)
        return _Point(weight, z, torch.baddbmm(penalty, torch.sigmoid(z) - self.label, self.x))

    def exactly_at(self, weight: Float[Tensor, "head 1 width"]) -> _Point:
        """The point computed in float64, block by block; only the results are rounded."""
        gradient, logits = self.ridge * weight, []
        for x, label in zip(self.x.split(BLOCK, dim=1), self.label.split(BLOCK)):
            x = self.room[:, : len(label)].copy_(x)
            logits.append(torch.bmm(weight, x.mT))
            gradient = torch.baddbmm(gradient, torch.sigmoid(logits[-1]) - label, x)
        return _Point(weight, torch.cat(logits, dim=-1).to(self.x.dtype), gradient.to(self.x.dtype))

    def inverse_diagonal(
        self, curvature: Float[Tensor, "head 1 answer"]
    ) -> Float[Tensor, "head width width"]:
        """About the inverse of the Hessian's diagonal: by every eighth answer."""
        squares = 8 * torch.bmm(curvature[..., ::8], self.x[:, ::8] ** 2)[:, 0]
        return torch.diag_embed(1 / (squares + self.ridge + TINY))

    def inverse_hessian(
        self, curvature: Float[Tensor, "head 1 answer"]
    ) -> Float[Tensor, "head width width"] | None:
        """None where the precision of `x` cannot tell a head's directions apart."""
        scaled = self.x * curvature.sqrt().mT
        hessian = torch.bmm(scaled.mT, scaled).double()
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal += self.ridge
        factor, failed = torch.linalg.cholesky_ex(hessian)
        for growth in (1e-12, 1e-8, 1e-4, 1.0) if self.x.dtype == torch.float64 else ():
            if failed.any():  # bends the way, not the optimum
                diagonal.mul_(1 + growth * (failed > 0)[:, None]).add_(TINY)
                factor, failed = torch.linalg.cholesky_ex(hessian)
        own = factor.diagonal(dim1=1, dim2=2) ** 2 > INDEPENDENT[self.x.dtype] * diagonal
        return (
            None
            if failed.any() or not own.all()
            else torch.cholesky_inverse(factor).to(self.x.dtype)
        )


def _newton(problem: _Problem) -> Float[Tensor, "head 1 width"] | None:
    """The optimum of all heads, or None where the precision of `x` does not suffice."""
    zero = torch.zeros_like(problem.x[:, :1], dtype=torch.float64)
    here, exact = problem.at(zero, torch.zeros_like(problem.x[:, None, :, 0])), False
    inverse = problem.inverse_diagonal(here.curvature())
    for count in range(STEPS):
        size, square = _square(here.weight[..., :-1]), _square(here.gradient)
        tight = RESIDUAL * size * problem.ridge[0] ** 2 + TINY
        enough = torch.maximum(tight, ROUNDING * square) if exact else FORCING * square
        step, along, left = _toward(problem, here, inverse, enough)
        if not (left <= enough).all():
            inverse = problem.inverse_hessian(here.curvature())
            if inverse is None:
                return None
            step, along, left = _toward(problem, here, inverse, enough)
            if not (left <= enough).all():
                return None
        length = _square(step[..., :-1])
        if (
            exact
            and (left <= tight).all()
            and (length <= LAST * size + TINY).all()
            and along.abs().max() <= STRAIGHT
        ):
            return here.weight - step
        exact = exact or count >= ROUGH_STEPS or bool((length <= CLOSE * size + TINY).all())
        here = _search(problem, here, step, along, exact)
    return None


def _toward(
    problem: _Problem,
    here: _Point,
    inverse: Float[Tensor, "head width width"],
    enough: Float[Tensor, "head 1 1"],
) -> tuple[
    Float[Tensor, "head 1 width"], Float[Tensor, "head 1 answer"], Float[Tensor, "head 1 1"]
]:
    """Newton's step (to be subtracted), its change of the logits, and the squared gradient that it leaves."""
    curvature, residual = here.curvature(), here.gradient
    step, along = torch.zeros_like(residual), torch.zeros_like(curvature)
    direction = torch.bmm(residual, inverse)
    fall = _dot(residual, direction)
    for _ in range(ITERATIONS):
        ahead = torch.bmm(direction, problem.x.mT)
        change = torch.baddbmm(problem.ridge * direction, curvature * ahead, problem.x)
        size = _over(fall, _dot(direction, change))
        step.addcmul_(size, direction)
        along.addcmul_(size, ahead)
        residual = residual.addcmul(size, change, value=-1)
        left = _square(residual)
        if (left <= enough).all():
            break
        toward, before = torch.bmm(residual, inverse), fall
        fall = _dot(residual, toward)
        direction = toward.addcmul(_over(fall, before), direction)
    return step, along, left


def _search(problem: _Problem, here: _Point, step: Tensor, along: Tensor, exact: bool) -> _Point:
    """Behind the step, which is halved until the loss no longer rises steeply there, other than by rounding."""
    fall = _dot(here.gradient, step)
    for _ in range(HALVINGS):
        weight = here.weight - step
        there = problem.exactly_at(weight) if exact else problem.at(weight, here.z - along)
        steep = _dot(there.gradient, step) < -0.5 * fall
        if not steep.any() or not (steep & (along.abs().amax(-1, True) > STRAIGHT)).any():
            break
        size = 1 - 0.5 * steep.to(step.dtype)
        step, along, fall = step * size, along * size, fall * size
    return there


def _dot(
    a: Float[Tensor, "head 1 any"], b: Float[Tensor, "head 1 any"]
) -> Float[Tensor, "head 1 1"]:
    return torch.bmm(a, b.mT)


def _square(a: Float[Tensor, "head 1 any"]) -> Float[Tensor, "head 1 1"]:
    return torch.bmm(a, a.mT)


def _over(a: Float[Tensor, "head 1 1"], b: Float[Tensor, "head 1 1"]) -> Float[Tensor, "head 1 1"]:
    """0 / 0 is 0: a head at its optimum stays there."""
    return a / b.clamp(min=torch.finfo(b.dtype).tiny)
