"""Muon, the update rule of the fastest trainings on CIFAR-10, for convolutions.

Jordan 2024, "Muon: An optimizer for hidden layers in neural networks", and its form for filters in
the same author's airbench94: the step is the momentum with all its singular values made about 1.
"""

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
ITERATIONS = 3  # airbench94; for large matrices 5
SMALLEST = 1e-7  # norm that is divided by


class Muon(torch.optim.SGD):
    """SGD that updates the filters in groups with an `inertia` in Muon's way.

    A filter bank counts as a matrix, out_channels x the rest, and is brought to the Frobenius norm
    of sqrt(out_channels) before each update: a batch norm must follow, which makes the scale of a
    filter meaningless. `inertia` is the Nesterov momentum of such a group, whose `momentum`, of
    SGD, is 0.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # A scaler is to leave out an update that overflows before it comes here, not in the kernel.
        self._step_supports_amp_scaling = False

    def step(self, closure: Any = None) -> Any:
        """Make one update from the gradients, which are those of the filters no more afterwards."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if "inertia" in group and parameter.grad is not None:
                    self._prepare(parameter, group["inertia"])
        return super().step(closure)

    @torch.no_grad()
    def _prepare(self, filters: Tensor, inertia: float) -> None:
        """Normalise the filters, and put the step that Muon takes in place of their gradient."""
        gradient, state = filters.grad, self.state[filters]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(filters)
        velocity = state["momentum_buffer"].mul_(inertia).add_(gradient)
        ahead = gradient.add(velocity, alpha=inertia)
        filters.mul_(len(filters) ** 0.5 / filters.norm().clamp(min=SMALLEST))
        gradient.copy_(orthogonalized(ahead.flatten(1)).reshape(filters.shape))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Nearly U V of a matrix U S V, by Newton-Schulz iterations: products only.

    Singular values end between about 0.3 and 1.2 instead of at 1, which does as well.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=SMALLEST)  # no singular value is above 1
    # Every iteration multiplies x from the left by a polynomial of its Gram matrix, and such
    # matrices commute: so all can be made from the first, which is small, and multiplied once.
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if is_tall else x
