"""Which first weights let a 19-layer network without batch normalisation learn.

VGG-19 with an eighth of its channels on Fashion-MNIST, 28x28, with every initialiser: how large the
gradient of the first layer is before the first update, by what factor k each layer changes the
size of its input on average, and the accuracy on held-out images after some hundred updates, with
the better of two learning rates. Draws the courses as a picture.
"""

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import common
from deepcnn.config import Data
from deepcnn.curves import save_picture
from deepcnn.data.loader import Source, in_order, source
from deepcnn.data.order import order
from deepcnn.data.splits import load_splits
from deepcnn.device import Policy
from deepcnn.models import BY_DATA, INITIALIZERS, initialize
from deepcnn.models.vgg import VGG, E
from deepcnn.table import table

CONV_ARCH = tuple((convs, channels // 8) for convs, channels in E)
NAMES = [name for name in (*INITIALIZERS, *BY_DATA) if name not in ("xavier", "xavier-2.24")]
RATES = (0.05, 0.01)  # Nesterov momentum 0.9; the better by held-out accuracy counts
BATCH, HELD_OUT = 64, 2_000
PICTURE = common.REPOSITORY / "docs" / "initialisers.png"
BF16 = Policy("cpu", "bf16", "channels_last", 2)


def begin(name: str, seed: int, images: Source) -> VGG:
    """The network with first weights as named."""
    torch.manual_seed(seed)
    model = VGG(CONV_ARCH, num_classes=10, in_channels=1, side=28)
    if name == "default":  # the network's own draw is He's: here PyTorch's is meant
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    initialize(model, name, lambda: images.batch(torch.arange(BATCH)).images)
    return model


def first_gradients(model: VGG, images: Source) -> dict[str, float]:
    """Sizes before the first update, in evaluation mode: gradients, and k, their mean change."""
    batch = images.batch(torch.arange(BATCH))
    model.eval().zero_grad()
    F.cross_entropy(model(batch.images), batch.labels).backward()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    sizes = [root_mean_square(layer.weight.grad) for layer in (layers[0], layers[-1])]
    outputs: list[float] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: outputs.append(root_mean_square(out)))
        for layer in layers
    ]
    with torch.no_grad():
        model(batch.images)
    for hook in hooks:
        hook.remove()
    change = outputs[-1] / root_mean_square(batch.images)
    return {
        "first_layer_gradient": sizes[0],
        "last_layer_gradient": sizes[1],
        "k": change ** (1 / len(layers)) if change > 0 else 0.0,
    }


def root_mean_square(tensor: Tensor | None) -> float:
    """The typical size of an entry."""
    return math.nan if tensor is None else float(tensor.detach().square().mean().sqrt())


def train(model: VGG, rate: float, images: Source, updates: int, seed: int) -> list[float]:
    """The loss of each update; it ends early if the loss is no number any more."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True)
    permutation, losses = order(seed, 0, len(images.images)), []
    BF16.place(model).train()
    for step in range(updates):
        batch = images.batch(permutation[step * BATCH : (step + 1) * BATCH])
        torch.manual_seed(step)
        optimizer.zero_grad()
        with BF16.autocast():
            logits = model(BF16.arrange(batch.images))
        loss = F.cross_entropy(logits.float(), batch.labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses


def accuracy(model: VGG, images: Source) -> float:
    """On all images of a set."""
    model.eval()
    with torch.no_grad(), BF16.autocast():
        hits = [
            (model(BF16.arrange(batch.images)).argmax(dim=1) == batch.labels).sum().item()
            for batch in in_order(images, 500)
        ]
    return float(sum(hits) / len(images.images))


def measure(updates: int, seeds: int) -> dict[str, Any]:
    """Every initialiser, with every rate and seed; the test set is not touched."""
    BF16.apply()
    splits = load_splits(Data(name="fashion-mnist", validation=HELD_OUT), seed=0)
    learn, held_out = (
        source(part, splits.preprocess, torch.device("cpu"))
        for part in (splits.train, splits.parts()["validation"])
    )
    results = {}
    for name in NAMES:
        facts: dict[str, Any] = first_gradients(begin(name, 0, learn), learn)
        facts["rates"] = {}
        for rate in RATES:
            courses, accuracies = [], []
            for seed in range(seeds):
                model = begin(name, seed, learn)
                courses.append(train(model, rate, learn, updates, seed))
                accuracies.append(accuracy(model, held_out))
            facts["rates"][str(rate)] = {"accuracies": accuracies, "losses": courses}
        best = max(facts["rates"], key=lambda rate: sum(facts["rates"][rate]["accuracies"]))
        results[name] = facts | {"best_rate": float(best)}
        mean = sum(facts["rates"][best]["accuracies"]) / seeds
        print(f"{name}: {mean:.4f} at rate {best}", flush=True)
    return {"updates": updates, "seeds": seeds, "initialisers": results}


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["initialiser", "k", "first gradient", "last gradient", "rate", "held-out accuracy"]]
    for name, facts in record["initialisers"].items():
        accuracies = facts["rates"][str(facts["best_rate"])]["accuracies"]
        rows.append([
            name, f"{facts['k']:.3f}", f"{facts['first_layer_gradient']:.1e}",
            f"{facts['last_layer_gradient']:.1e}", f"{facts['best_rate']}",
            f"{sum(accuracies) / len(accuracies):.3f} "
            f"({min(accuracies):.3f} to {max(accuracies):.3f})",
        ])  # fmt: skip
    return "\n".join([common.describe(record["conditions"]), table(rows)])


def draw(record: dict[str, Any], path: Path) -> None:
    """The loss of each initialiser, smoothed, with its better rate."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, facts in record["initialisers"].items():
        losses = facts["rates"][str(facts["best_rate"])]["losses"][0]
        smooth, course = losses[0], []
        for loss in losses:
            smooth += 0.05 * (loss - smooth)
            course.append(smooth)
        axes.plot(course, label=f"{name} (k = {facts['k']:.2f})")
    axes.axhline(math.log(10), color="0.8", linewidth=1)
    axes.set(xlabel="update", ylabel="training loss", ylim=(0, 3),
             title="19 layers without batch normalisation, Fashion-MNIST")  # fmt: skip
    axes.legend(fontsize=8)
    save_picture(figure, path)


def main() -> None:
    """Measure, print, record, draw."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--updates", type=common.positive, default=400, help="(%(default)s)")
    parser.add_argument("--seeds", type=common.positive, default=2, help="(%(default)s)")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"name": "initialisers", "conditions": common.conditions()}
    record |= measure(arguments.updates, arguments.seeds)
    draw(record, PICTURE)
    for facts in record["initialisers"].values():
        for rate in facts["rates"].values():
            rate["losses"] = [course[-1] for course in rate["losses"]]  # the courses are drawn
    common.finish("initialisers", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
