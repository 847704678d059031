"""How much depends on which images of Fashion-MNIST are the test set.

The texts read Fashion-MNIST from MXNet's mirror, whose four files have other SHA-1 sums than the
official ones. A linear model, too small to overfit, is trained as in the texts' series (784 inputs,
10 outputs, batches of 256, SGD at 0.1, 5 epochs) on the official split and on random splits of the
same 70,000 images. What differs between the two is due to the split alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import common
from deepcnn.data import catalog
from deepcnn.table import table
from seeds import summary

TRAIN, TEST = 60_000, 10_000
SPLITS = ("official", "random")


def all_images() -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1], 70,000 x 784, and labels; the official test set comes last."""
    parts = [catalog.load("fashion-mnist", split, "") for split in ("train", "test")]
    pixels = [torch.from_numpy(part.images).flatten(start_dim=1) for part in parts]
    labels = [torch.from_numpy(part.labels).long() for part in parts]
    return torch.cat(pixels).float() / 255, torch.cat(labels)


def train(pixels: Tensor, labels: Tensor, split: str, seed: int) -> dict[str, float]:
    """One run: loss and train accuracy over its last epoch, and test accuracy after it."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.arange(TRAIN + TEST)
    if split == "random":
        images = torch.randperm(TRAIN + TEST, generator=generator)
    inside, outside = images[:TRAIN], images[TRAIN:]
    weight = (0.01 * torch.randn(784, 10, generator=generator)).requires_grad_()
    bias = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=0.1)
    for _ in range(5):
        loss_sum = correct = 0.0
        for batch in inside[torch.randperm(TRAIN, generator=generator)].split(256):
            optimizer.zero_grad()
            logits = pixels[batch] @ weight + bias
            loss = F.cross_entropy(logits, labels[batch])
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(batch)
            correct += (logits.argmax(dim=1) == labels[batch]).sum().item()
    with torch.no_grad():
        hits = (pixels[outside] @ weight + bias).argmax(dim=1) == labels[outside]
    return {
        "loss": loss_sum / TRAIN,
        "train_accuracy": correct / TRAIN,
        "test_accuracy": hits.float().mean().item(),
    }


def measure(seeds: int) -> dict[str, Any]:
    """Every seed on both splits."""
    pixels, labels = all_images()
    results = {}
    for split in SPLITS:
        runs = [train(pixels, labels, split, seed) for seed in range(seeds)]
        results[split] = {key: summary([run[key] for run in runs]) for key in runs[0]}
    return {"splits": results}


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["split", "loss", "train accuracy", "test accuracy", "95 % interval"]]
    for split, facts in record["splits"].items():
        low, high = facts["test_accuracy"]["interval"]
        means = [f"{facts[key]['mean']:.4f}" for key in facts]
        rows.append([split, *means, f"{low:.4f} to {high:.4f}"])
    return "\n".join([common.describe(record["conditions"]), table(rows)])


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--seeds", type=common.positive, default=20, help="(%(default)s)")
    arguments = parser.parse_args()
    record = {"name": "fashion-mnist-split", "conditions": common.conditions()}
    record |= measure(arguments.seeds)
    common.finish("fashion-mnist-split", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
