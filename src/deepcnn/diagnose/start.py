"""What can be seen of a run before its first update, in well under a second."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from deepcnn.data.splits import Splits
from deepcnn.device import Policy
from deepcnn.diagnose.findings import KINDS, Finding, ranked
from deepcnn.diagnose.inputs import check_inputs, some

# How far above ln K the first loss may be. Of the 48 networks of `models` with their own first
# weights, all stay below 0.7 but resnet56 with 1.5 and resnet110 with 2.8.
MOST_ABOVE = 5.0
CLIPPED = 0.1  # share of logits that are exactly 0; without a ReLU behind them none is
FEWEST, MOST = 4, 64  # images of the first look
MOST_PIXELS = 2**17  # all together: 64 images of 28x28, and four of 224x224


def first_look(model: nn.Module, splits: Splits, policy: Policy) -> str:
    """The most likely reason, in a line, why a network will not learn; "" where none is seen.

    Weights, running statistics and random numbers stay as they are.
    """
    number = min(max(MOST_PIXELS // splits.preprocess.input_size**2, FEWEST), MOST)
    batch = some(splits.train, splits.preprocess, number)
    findings = [*check_inputs(batch.images, splits.preprocess), *check_frozen(model)]
    logits = _answers(model, batch.images, len(splits.train.classes), policy)
    findings += check_logits(logits, batch.labels)
    for finding in ranked(findings)[:1]:
        return f"{KINDS[finding.kind].title}: {finding.measured}"
    return ""


def check_frozen(model: nn.Module) -> Iterator[Finding]:
    """Whether anything is to train."""
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        yield Finding("frozen", f"0 of {sum(p.numel() for p in parameters):,} parameters train")


def check_logits(logits: Tensor, labels: Tensor) -> Iterator[Finding]:
    """What first answers, N K in fp32, say of a network: to it all classes should be alike."""
    number, classes = logits.shape
    if not logits.isfinite().all():
        yield Finding("non-finite", "the network's first answers")
        return
    if logits.min() >= 0 and (logits.sum(1) - 1).abs().max() < 1e-2:
        yield Finding("softmax-twice", f"the {classes} logits of each of {number} images sum to 1")
    zeros = float((logits == 0).float().mean())
    if logits.min() == 0 and logits.max() > 0 and zeros > CLIPPED:
        yield Finding("logits-limited", f"{zeros:.0%} of the logits are 0, none is below")
    loss, expected = float(F.cross_entropy(logits, labels)), math.log(classes)
    if loss > expected + MOST_ABOVE:
        wanted = f"ln {classes} is {expected:.2f}"
        yield Finding("loss-at-start", f"a first loss of {loss:.3g}, where {wanted}")


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, classes: int, policy: Policy) -> Tensor:
    """Logits N K in training mode, computed with copies of running statistics."""
    was_training, devices = model.training, [policy.device] if "cuda" in policy.device else []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices), policy.autocast():
        outputs = functional_call(model.train(), buffers, policy.arrange(images.to(policy.device)))
    model.train(was_training)
    logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits.float()[:, :classes].cpu()
