"""The step that is profiled: the forward pass, or all of an update."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn.optim import make_optimizer, set_lr
from deepcnn.profile.subject import Subject
from deepcnn.profile.trace import LOSS, Part, Trace


class Step:
    """A network with a batch of noise; after each update its weights are what they were."""

    def __init__(self, subject: Subject, train: bool) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = subject.policy.place(subject.build()).train(train)
            images = torch.rand(subject.batch_size, *subject.input)
        self.policy = subject.policy
        self.images = self.policy.arrange(images.to(self.policy.device))
        self.labels = torch.zeros(subject.batch_size, dtype=torch.int64).to(self.policy.device)
        self.optimizer = make_optimizer(subject.optim, self.model) if train else None
        if self.optimizer:
            set_lr(self.optimizer, 0.0)

    def __call__(self, trace: Trace | None = None) -> None:
        """Make the step, and tell `trace`, if there is one, what begins."""
        if not self.optimizer:
            with torch.no_grad(), self.policy.autocast():
                self.outputs = self.model(self.images)
            if trace:
                trace.end()
            return
        with self.policy.autocast():
            outputs = self.model(self.images)
        if trace:
            trace.forward(Part(LOSS))
        loss = objective(self.model, outputs, self.labels)
        if trace:
            trace.backward(loss)
        loss.backward()
        if trace:
            trace.update()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if trace:
            trace.end()


def objective(model: nn.Module, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """The mean cross-entropy, with that of classifiers half-way, as in training."""
    answers = outputs if isinstance(outputs, tuple) else (outputs,)
    loss, *of_heads = (F.cross_entropy(logits.float(), labels) for logits in answers)
    if of_heads:
        loss = loss + cast(float, model.auxiliary_weight) * torch.stack(of_heads).sum()
    return loss
