"""What one batch shows of a network: what trains, modes, scale of signals, dead units."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcnn.data.loader import Batch
from deepcnn.diagnose.findings import Finding
from deepcnn.diagnose.signal import Signals
from deepcnn.diagnose.start import check_frozen, check_logits
from deepcnn.pieces import in_pieces
from deepcnn.run import Run

# Wu and He 2018, "Group Normalization", figure 1: ResNet-50 with batch norm errs on 23.6 % of
# ImageNet with 32 images a piece, 23.7 with 16, 24.8 with 8, 27.3 with 4 and 34.7 with 2.
LEAST_FOR_NORM = 8
# Over the first weights of 48 networks the root mean square of a layer's output is 0.005 to 32, and
# the gradient at the first layer is 0.0003 to 3,000 times that at the last.
SIGNALS = (1e-4, 1e3)
GRADIENTS = (1e-6, 1e5)
# Of a layer's units up to 0.48 are dead to eight images at first, in dense layers of AlexNet and
# VGG; after the run in short, up to 0.08 in the recipes.
MOST_DEAD = 0.9
# Logits of sound networks vary over images by 0.0004 of their size (LeNet-5) or more.
LEAST_VARIED = 1e-6
AGAIN = 8  # images that are answered once more
SAME = 1e-3  # difference of logits, as a share, that sums in another order may leave in fp32


def check_network(run: Run, batch: Batch, signals: Signals) -> Iterator[Finding]:
    """Look at what a batch did (`signals`), and at how the network answers in evaluation."""
    if signals.began:
        yield Finding("non-finite", f"they begin in {signals.began}")
        return
    frozen = list(check_frozen(run.state.model))
    yield from frozen or _check_gradients(run.state.model)
    yield from check_logits(signals.logits, batch.labels)
    yield from _check_norms(run)
    yield from _check_evaluation(run, batch)
    yield from _check_variety(signals)
    yield from _check_scale(signals)
    yield from check_dead(signals, "")


def _check_gradients(model: nn.Module) -> Iterator[Finding]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    cut = [name for name, p in trained.items() if p.grad is None]
    if len(cut) == len(trained):
        yield Finding("frozen", "the loss has no gradient by any parameter")
    elif cut:
        share = f"{len(cut)} of {len(trained)} parameters that are to train, the first {cut[0]}"
        yield Finding("cut-off", f"no gradient for {share}")
    broken = [n for n, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()]
    if broken:
        yield Finding("non-finite", f"they begin in the gradient by {broken[-1]}")


def _check_norms(run: Run) -> Iterator[Finding]:
    """Whether norms by batch are in training mode where they train, and batches large enough."""
    norms = {
        name: layer
        for name, layer in run.state.model.train().named_modules()
        if isinstance(layer, _BatchNorm)
    }
    trained = {n: m for n, m in norms.items() if all(p.requires_grad for p in m.parameters())}
    resting = [name for name, layer in trained.items() if not layer.training]
    if resting:
        measured = f"{len(resting)} of {len(trained)} norms, the first {resting[0]}"
        yield Finding("norm-in-training", f"{measured}, are in evaluation mode after train()")
    train = run.config.train
    piece = min(map(len, in_pieces(torch.arange(train.batch_size), run.state.pieces)))
    if len(trained) > len(resting) and piece < LEAST_FOR_NORM:
        pieces = f"batches of {train.batch_size} in pieces of {piece} images"
        yield Finding("small-batch", f"{pieces}, and {len(trained)} norms go by a piece")


@torch.no_grad()
def _check_evaluation(run: Run, batch: Batch) -> Iterator[Finding]:
    """Whether an image is answered alike among others and once more."""
    model = run.state.model.eval()

    def answer(images: Tensor) -> Tensor:
        logits: Tensor = model(run.policy.arrange(images))
        return logits

    whole = answer(batch.images)
    few = len(batch.images[:AGAIN]) // 2 * 2
    if few == 0 or not whole.isfinite().all():
        return
    apart = torch.cat([answer(pair) for pair in batch.images[:few].split(2)])
    change = float((whole[:few] - apart).abs().max() / whole.abs().max().clamp(min=1e-12))
    if change > SAME:
        measured = f"logits change by {change:.0%} of the largest when images come in pairs"
        yield Finding("norm-in-evaluation", measured)


def _check_variety(signals: Signals) -> Iterator[Finding]:
    logits = signals.logits
    size = float(logits.square().mean().sqrt())
    varied = float((logits - logits.mean(0)).square().mean().sqrt())
    if len(logits) > 1 and varied <= LEAST_VARIED * size:
        measured = (
            f"logits of {len(logits)} images deviate by {varied:.2g}, their size is {size:.2g}"
        )
        yield Finding("same-answer", measured)


def _check_scale(signals: Signals) -> Iterator[Finding]:
    """The scale of signals and gradients, layer by layer."""
    layers = signals.layers
    if not layers:
        return
    least, most = min(layers, key=lambda e: e.signal), max(layers, key=lambda e: e.signal)
    if 0 < least.signal < SIGNALS[0]:
        yield Finding("vanishing", f"the output of {least.name} has size {least.signal:.2g}")
    if most.signal > SIGNALS[1]:
        yield Finding("exploding", f"the output of {most.name} has size {most.signal:.2g}")
    first, last = layers[0].gradient, layers[-1].gradient
    if not first or not last:
        return
    k = f"k is {signals.growth:.2g} over {len(layers)} layers"
    measured = (
        f"the gradient at {layers[0].name} is {first / last:.1g} times that at the last layer"
    )
    if first < GRADIENTS[0] * last:
        yield Finding("vanishing", f"{measured}; {k}")
    if first > GRADIENTS[1] * last:
        yield Finding("exploding", f"{measured}; {k}")


def check_dead(signals: Signals, when: str) -> Iterator[Finding]:
    """Units behind a ReLU that are 0 for all images."""
    name = max(signals.dead, key=signals.dead.__getitem__, default="")
    if name and signals.dead[name] > MOST_DEAD:
        yield Finding("dead", f"{signals.dead[name]:.0%} of the units behind {name}{when}")
