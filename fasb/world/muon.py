"""Muon, in float32 and with equal shapes together.

The optimizer of a world model's hidden matrices.

The library's own computes in bfloat16, matrix by matrix, which is slow on CPUs without bfloat16
units and differs between CPUs with and without them. The rule is the same: momentum .95 (Nesterov),
the update made orthogonal by Newton-Schulz steps and scaled to the size of AdamW's, decoupled
weight decay.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For matrices; steps: Newton-Schulz steps."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float, steps: int
    ) -> None:
        super().__init__(
            matrices, {"lr": lr, "weight_decay": weight_decay, "steps": steps, "momentum": 0.95}
        )
        self._stacks = [_by_shape(group["params"]) for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is called
        """Change all matrices by one step; a closure is not supported."""
        assert closure is None
        for group, stacks in zip(self.param_groups, self._stacks, strict=True):
            for i, matrices in enumerate(stacks):
                gradient = torch.stack([_gradient(matrix) for matrix in matrices])
                # torch keeps state by parameter: a stack's momentum lies with its first matrix
                momentum = self.state[matrices[0]].setdefault(
                    f"momentum{i}", torch.zeros_like(gradient)
                )
                momentum.lerp_(gradient, 1 - group["momentum"])
                # Nesterov: the gradient counts once more, beside the momentum that holds it
                update = orthogonal(gradient.lerp(momentum, group["momentum"]), group["steps"])
                scale = 0.2 * max(update.shape[-2:]) ** 0.5
                for matrix, change in zip(matrices, update, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                        change, alpha=-group["lr"] * scale
                    )


def _by_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    stacks: dict[tuple[int, ...], list[Tensor]] = {}
    for matrix in matrices:
        stacks.setdefault(tuple(matrix.shape), []).append(matrix)
    return list(stacks.values())


def orthogonal(
    update: Float[Tensor, "matrix row column"], steps: int
) -> Float[Tensor, "matrix row column"]:
    """Return each matrix with its singular values brought near 1."""
    a, b, c = COEFFICIENTS
    # of the two products with its transpose the smaller one is wanted
    wide = update.mT if update.shape[-2] > update.shape[-1] else update
    # the Frobenius norm bounds the largest singular value, which must not exceed 1 for the steps
    x = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if update.shape[-2] > update.shape[-1] else x


def _gradient(matrix: Tensor) -> Tensor:
    assert matrix.grad is not None
    return matrix.grad
