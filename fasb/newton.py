"""Logistic regression of many heads, to the optimum: BFGS, given the Hessian where its own steps are too slow.

In: head outputs and labels. Out: per head the weights and bias that minimise

    C * sum of log losses + 0.5 * |weight|^2          (scikit-learn's objective; the bias is not penalised)

A step costs two products with the head's outputs, which stay in the processor's cache as heads are fitted one by one;
a Hessian costs some dozen steps. Knows no bank and no model.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fasb.errors import DataError

STEPS = 500
"""More than separable data need at any C that makes sense."""

TOLERANCE = {"gradient": 1e-10, "Hessian": 1e-11}
"""Squared distance to the optimum before the last step, relative to the weights' own, by how it is measured.

By the gradient it is mostly far less than this, for no weight's curvature is below the ridge's 1."""

TRIAL = 4
"""Steps after which their rate is known."""

HESSIAN = 12
"""Steps that take as long as a Hessian."""

INDEPENDENT = {torch.float32: 1e-4, torch.float64: 0.0}
"""Share of a weight's curvature that the other weights must leave to it: rounding takes 1e-7 or 1e-16."""

TINY = 1e-24
"""Next to 0, for heads that never vary."""


def fit_logistic(
    x: Float[Tensor, "answer head head_dim"], label: Integer[Tensor, " answer"], C: float, bias: bool
) -> tuple[Float[Tensor, "head head_dim"], Float[Tensor, " head"]]:
    """Weights and biases of all heads, float64; labels are 0 and 1, and both occur.

    Torch's threads (`torch.set_num_threads`) share the heads; memory is a float64 copy of two heads for each thread.

    Raises:
        DataError: a head has no optimum that float64 can reach.
    """
    sign, threads = 2 * label.double() - 1, torch.get_num_threads()
    workers = min(threads, x.shape[1])
    solution = x.new_empty(x.shape[1], x.shape[2] + 1, dtype=torch.float64)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            shares = [(x[:, i::workers], sign, C, bias, solution[i::workers]) for i in range(workers)]
            list(pool.map(_fit, *zip(*shares)))
    finally:
        torch.set_num_threads(threads)
    return solution[:, :-1], solution[:, -1]


def _fit(x: Tensor, sign: Tensor, C: float, bias: bool, solution: Float[Tensor, "head width"]) -> None:
    """One head after the other, in the same memory: fresh pages would take longer than a step."""
    ridge = torch.ones_like(solution[0])
    ridge[-1] = 0.0 if bias else 1.0
    outputs = x.new_full((len(sign), x.shape[2] + 1), float(bias), dtype=torch.float64)
    room = tuple(torch.empty_like(outputs, dtype=dtype) for dtype in INDEPENDENT)
    problem = _Problem(outputs, room, -sign, -C * sign, ridge, C)
    mean = torch.zeros_like(ridge[:-1])
    for head in range(x.shape[1]):
        outputs[:, :-1] = room[0][:, :-1].copy_(x[:, head])  # strides first, then float64: faster than both at once
        if bias:  # which absorbs the mean; taken out, a large one slows no step
            mean = outputs[:, :-1].mean(0)
            outputs[:, :-1] -= mean
        solution[head] = _descend(problem)
        solution[head, -1] -= solution[head, :-1] @ mean


@dataclass(frozen=True, slots=True)
class _Problem:
    """The objective of one head. The bias is the last weight; its column of `x` is ones, or zeros without bias."""

    x: Float[Tensor, "answer width"]
    room: tuple[Tensor, ...]
    away: Float[Tensor, " answer"]  # 1 where the label is 0, else -1
    pull: Float[Tensor, " answer"]  # C times that
    ridge: Float[Tensor, " width"]
    C: float

    def slope(self, z: Float[Tensor, " answer"]) -> Float[Tensor, " answer"]:
        """Of the losses, along the logits."""
        return torch.sigmoid(self.away * z).mul_(self.pull)

    def gradient(self, slope: Float[Tensor, " answer"], weight: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
        return self.x.T @ slope + self.ridge * weight

    def scales(self) -> Float[Tensor, "width width"]:
        """About the inverse of the Hessian's diagonal at 0: by every eighth answer."""
        squares = 8 * torch.linalg.vector_norm(self.x[::8], dim=0) ** 2
        return torch.diag(1 / (0.25 * self.C * squares + self.ridge + TINY))

    def inverse_hessian(self, z: Float[Tensor, " answer"]) -> Float[Tensor, "width width"]:
        """Its products are float32 where the head's directions are independent enough for that, else float64."""
        spread = (self.C * torch.sigmoid(z) * torch.sigmoid(-z)).sqrt()[:, None]
        for room in self.room:
            scaled = room.copy_(self.x).mul_(spread.to(room.dtype))
            hessian = (scaled.T @ scaled).double()
            hessian.diagonal().add_(self.ridge)
            factor, failed = torch.linalg.cholesky_ex(hessian)
            if not failed and (factor.diagonal() ** 2 > INDEPENDENT[room.dtype] * hessian.diagonal()).all():
                break
        for growth in (1e-12, 1e-8, 1e-4, 1.0):
            if failed:  # bends the way, not the optimum
                hessian.diagonal().mul_(1 + growth).add_(TINY)
                factor, failed = torch.linalg.cholesky_ex(hessian)
        return torch.cholesky_inverse(factor)


def _descend(problem: _Problem) -> Float[Tensor, " width"]:
    weight, z = torch.zeros_like(problem.ridge), torch.zeros_like(problem.away)
    gradient = problem.gradient(problem.slope(z), weight)
    inverse, measure, gaps = problem.scales(), "gradient", []
    for _ in range(STEPS):
        toward = inverse @ gradient
        gaps.append(float(gradient @ (toward if measure == "Hessian" else gradient)))
        near = TOLERANCE[measure] * float(weight @ (problem.ridge * weight)) + TINY
        if gaps[-1] <= near:
            return weight - toward
        if _slow(gaps, near):
            inverse, measure, gaps = problem.inverse_hessian(z), "Hessian", []
            toward = inverse @ gradient
        step, z, slope = _search(problem, weight, z, -toward, float(gradient @ toward))
        weight, before = weight + step, gradient
        gradient = problem.gradient(slope, weight)
        _learn(inverse, step, gradient - before)
    raise DataError(
        f"probes: no optimum after {STEPS} steps; lower probes.C, or look for heads with very large outputs"
    )


def _slow(gaps: list[float], near: float) -> bool:
    """Whether the steps still to come, at the rate of those since the last Hessian, would take longer than another."""
    steps, gained = len(gaps) - 1, log(gaps[0] / gaps[-1])
    return steps >= TRIAL and (gained <= 0 or log(gaps[-1] / near) * steps / gained > HESSIAN)


def _search(
    problem: _Problem, weight: Tensor, z: Tensor, step: Tensor, fall: float
) -> tuple[Float[Tensor, " width"], Float[Tensor, " answer"], Float[Tensor, " answer"]]:
    """The step, halved until the loss no longer rises steeply behind it; with the logits and their slope there."""
    along = problem.x @ step
    for _ in range(50):
        slope = problem.slope(z + along)
        if float(slope @ along + problem.ridge * (weight + step) @ step) <= 0.5 * fall:
            break
        step, along, fall = step / 2, along / 2, fall / 2
    return step, z + along, slope


def _learn(inverse: Float[Tensor, "width width"], step: Float[Tensor, " width"], change: Tensor) -> None:
    """Bend `inverse` so that it maps the gradient's change to the step that made it (BFGS)."""
    mapped, along = inverse @ change, float(step @ change)
    if along > 0:
        half = step * ((1 + float(change @ mapped) / along) / (2 * along)) - mapped / along
        inverse.addr_(step, half).addr_(half, step)
