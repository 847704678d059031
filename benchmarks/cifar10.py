"""CIFAR-10 by the fastest published design: run plainly, and by the recipe cifar10-sprint.

    python benchmarks/cifar10.py FOLDER --side plain --seed 0
    python benchmarks/cifar10.py FOLDER --side deepcnn --seed 0

FOLDER has train/CLASS/* and test/CLASS/*. Each call adds a run to the record and prints what there
is so far: a run takes minutes, so that seeds may be spread over days.

The plain side is airbench94_muon (Jordan 2024) with its published settings, as a script of its own
would have it: whole epochs augmented at once, bf16 autocast, channels last, Muon for filters and
SGD for the rest, six views of each test image. The clock holds whitening, training and the test;
the images are in memory before.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import common
from deepcnn.bench import clock, words
from deepcnn.bench.sprint import timed_run
from deepcnn.config import Config, Data
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.splits import load_splits
from deepcnn.data.views import mean_logits
from deepcnn.device import find_device
from deepcnn.files import cache_folder
from deepcnn.models.speedy import Speedy
from deepcnn.muon import Muon
from deepcnn.recipes import RECIPES
from seeds import summary

NAME = "cifar10"
# Of airbench94_muon: the loss is a sum over the batch.
EPOCHS, BATCH_SIZE, BIAS_EPOCHS = 8, 2_000, 3
FILTER_LR, FILTER_MOMENTUM = 0.24, 0.6
BIAS_LR, HEAD_LR, MOMENTUM, DECAY = 0.053, 0.67, 0.85, 2e-6 * BATCH_SIZE
SMOOTHING, SHIFT, WHITENED_FROM = 0.2, 2, 5_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
AT_ONCE = 2_000  # test images


def in_memory(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Standardised pixels N C H W and labels."""
    photos = images.images
    assert isinstance(photos, Photos)
    pixels = torch.stack([photos.pixels(index) for index in range(len(images))])
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels / 255 - mean) / std, torch.from_numpy(images.labels)


class Plain:
    """The published training."""

    def __init__(self, folder: str, seed: int) -> None:
        splits = load_splits(Data(name=folder, validation=0), seed=0)
        self.train, self.labels = in_memory(splits.train)
        self.test, self.test_labels = in_memory(splits.test)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)

    def run(self) -> tuple[float, float]:
        """Test accuracy and seconds."""
        began = time.perf_counter()
        model = Speedy().to(memory_format=torch.channels_last)
        model.whiten.fit(self.train[:WHITENED_FROM])
        whiten_bias, head = model.whiten.bias, model.head.weight
        assert whiten_bias is not None
        filters = [p for p in model.parameters() if p.ndim == 4]
        biases = [p for p in model.parameters() if p.ndim == 1 and p is not whiten_bias]
        sgd = torch.optim.SGD(
            [
                {"params": [whiten_bias], "lr": BIAS_LR, "weight_decay": DECAY / BIAS_LR},
                {"params": biases, "lr": BIAS_LR, "weight_decay": DECAY / BIAS_LR},
                {"params": [head], "lr": HEAD_LR, "weight_decay": DECAY / HEAD_LR},
            ],
            momentum=MOMENTUM, nesterov=True, fused=True,
        )  # fmt: skip
        muon = Muon([{"params": filters, "inertia": FILTER_MOMENTUM}], lr=FILTER_LR, fused=True)
        peaks = [(group, group["lr"]) for group in [*sgd.param_groups, *muon.param_groups]]
        per_epoch = len(self.train) // BATCH_SIZE
        step = 0
        flipped = self.flipped()
        for epoch in range(EPOCHS):
            images = self.augmented(flipped, epoch)
            order = torch.randperm(len(images), generator=self.generator)
            model.train()
            for number in range(per_epoch):
                indices = order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
                batch = images[indices].contiguous(memory_format=torch.channels_last)
                whiten_bias.requires_grad_(epoch < BIAS_EPOCHS)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = model(batch)
                loss = F.cross_entropy(
                    logits.float(), self.labels[indices], label_smoothing=SMOOTHING, reduction="sum"
                )
                loss.backward()
                for group, peak in peaks:
                    last = BIAS_EPOCHS if group["params"][0] is whiten_bias else EPOCHS
                    group["lr"] = peak * max(0.0, 1 - step / (last * per_epoch))
                sgd.step()
                muon.step()
                sgd.zero_grad(set_to_none=True)
                muon.zero_grad(set_to_none=True)
                step += 1
            print(f"epoch {epoch + 1}: {time.perf_counter() - began:.0f} s", flush=True)
        accuracy = self.accuracy(model)
        return accuracy, time.perf_counter() - began

    def flipped(self) -> Tensor:
        """Half of the images mirrored, once for all epochs, with a reflected margin."""
        chosen = torch.rand(len(self.train), generator=self.generator) < 0.5
        images = torch.where(chosen[:, None, None, None], self.train.flip(3), self.train)
        return F.pad(images, (SHIFT,) * 4, mode="reflect")

    def augmented(self, padded: Tensor, epoch: int) -> Tensor:
        """A window of each image; in every other epoch all are mirrored."""
        side = self.train.shape[2]
        offsets = torch.randint(2 * SHIFT + 1, (len(padded), 2), generator=self.generator)
        images = torch.empty_like(self.train)
        for row in range(2 * SHIFT + 1):
            for column in range(2 * SHIFT + 1):
                here = ((offsets[:, 0] == row) & (offsets[:, 1] == column)).nonzero()[:, 0]
                images[here] = padded[here, :, row : row + side, column : column + side]
        return images.flip(3) if epoch % 2 else images

    @torch.no_grad()
    def accuracy(self, model: torch.nn.Module) -> float:
        """Of six views of each test image."""
        model.eval()

        def network(images: Tensor) -> Tensor:
            logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
            return logits.float()

        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = torch.cat(
                [mean_logits(network, part, "flip_shift") for part in self.test.split(AT_ONCE)]
            )
        return float((logits.argmax(dim=1) == self.test_labels).double().mean())


def sprint(folder: str, seed: int) -> tuple[float, float]:
    """The recipe on the same pictures: test accuracy and seconds."""
    config: Config = RECIPES["cifar10-sprint"]()
    config = replace(
        config,
        data=replace(config.data, name=folder),
        train=replace(config.train, seed=seed),
    )
    with TemporaryDirectory() as place:
        return timed_run(config, Path(place) / "run", cache_folder())


def in_words(record: dict[str, Any]) -> str:
    """The result so far, for a person."""
    rows = [["", "seeds", "mean accuracy", "95 % interval", "median seconds"]]
    for side in ("plain", "deepcnn"):
        runs = [run for run in record["runs"] if run["side"] == side]
        if not runs:
            continue
        facts = summary([run["accuracy"] for run in runs])
        low, high = facts["interval"] or (float("nan"),) * 2
        seconds = clock.spread([run["seconds"] for run in runs])["median"]
        rows.append([side, f"{len(runs)}", f"{facts['mean']:.2%}", f"{low:.2%} to {high:.2%}",
                     f"{seconds:.0f}"])  # fmt: skip
    return words.table(rows)


def main() -> None:
    """Run once, add to the record, print it."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("folder", help="train/CLASS/* and test/CLASS/*")
    parser.add_argument("--side", choices=("plain", "deepcnn"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    path = arguments.results / f"{NAME}.json"
    record: dict[str, Any] = {"name": NAME, "runs": []}
    if path.exists():
        record = json.loads(path.read_text())
    conditions = common.conditions(find_device("auto"))
    if arguments.side == "plain":
        accuracy, seconds = Plain(arguments.folder, arguments.seed).run()
    else:
        accuracy, seconds = sprint(arguments.folder, arguments.seed)
    record["runs"].append({
        "side": arguments.side,
        "seed": arguments.seed,
        "accuracy": accuracy,
        "seconds": seconds,
        "conditions": conditions,
    })  # fmt: skip
    common.finish(NAME, record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
