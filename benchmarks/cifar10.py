"""CIFAR-10 by the fastest published design: run plainly, and by the recipe cifar10-sprint.

    python benchmarks/cifar10.py FOLDER --seeds 0 1 2 3 4

FOLDER has train/CLASS/* and test/CLASS/*. Both sides train at the same time, each in a process of
its own that stands still while it is the other's turn: the speed of a machine may change by a half
from hour to hour, but hardly within a turn. Every run is added to the record, and replaces what was
there of the same side and seed: a run takes minutes, so that seeds may be spread over days. Runs of
the recipe as it once was are left out, and of the time runs of one side alone tell nothing.

The plain side is airbench94_muon (Jordan 2024) with its published settings, as a script of its own
would have it: whole epochs augmented at once, bf16 autocast where the chip has it, channels last,
Muon for filters and SGD for the rest, six views of each test image. The clock holds whitening,
training and the test, and stands still with its side; the images are in memory before.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import common
from deepcnn.bench import clock
from deepcnn.bench.sides import side
from deepcnn.bench.sprint import timed_run
from deepcnn.config import Config, Data
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import load_splits
from deepcnn.data.views import VIEWS, mean_logits
from deepcnn.device import find_device, has_bf16
from deepcnn.errors import DeepcnnError
from deepcnn.files import cache_folder
from deepcnn.models.speedy import Speedy
from deepcnn.muon import Muon
from deepcnn.recipes import RECIPES
from deepcnn.settings import flat
from deepcnn.table import table
from seeds import summary

NAME, SIDES = "cifar10", ("plain", "deepcnn")
# Of airbench94_muon: the loss is a sum over the batch.
EPOCHS, BATCH_SIZE, BIAS_EPOCHS = 8, 2_000, 3
FILTER_LR, FILTER_MOMENTUM = 0.24, 0.6
BIAS_LR, HEAD_LR, MOMENTUM, DECAY = 0.053, 0.67, 0.85, 2e-6 * BATCH_SIZE
SMOOTHING, SHIFT, WHITENED_FROM = 0.2, 2, 5_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TURNS = {"plain": 30.0, "deepcnn": 15.0}  # seconds; so, both come to their end at about one time
TARGET = 0.5  # of the plain side's time, at the same mean accuracy


class Labelled(NamedTuple):
    """Standardised pixels N C H W and labels N."""

    pixels: Tensor
    labels: Tensor


def in_memory(images: ImageSet, preprocess: Preprocess) -> Labelled:
    """All images of a set."""
    whole = source(images, preprocess, torch.device("cpu")).batch(torch.arange(len(images)))
    return Labelled(whole.images, whole.labels)


def plain(folder: str, seed: int) -> tuple[float, float]:
    """The published training: test accuracy and seconds."""
    splits = load_splits(Data(name=folder, validation=0, mean=MEAN, std=STD), seed=0)
    train, test = (in_memory(each, splits.preprocess) for each in (splits.train, splits.test))
    torch.manual_seed(seed)
    began = time.perf_counter()
    model = Speedy().to(memory_format=torch.channels_last)
    model.whiten.fit(train.pixels[:WHITENED_FROM])
    whiten_bias = model.whiten.bias
    assert whiten_bias is not None
    sgd, muon = optimizers(model)
    peaks = [(group, group["lr"]) for group in (*sgd.param_groups, *muon.param_groups)]
    per_epoch = len(train.pixels) // BATCH_SIZE
    for step, (images, labels) in enumerate(batches(train)):
        for group, peak in peaks:
            epochs = BIAS_EPOCHS if group["params"][0] is whiten_bias else EPOCHS
            group["lr"] = peak * max(0.0, 1 - step / (epochs * per_epoch))
        whiten_bias.requires_grad_(step < BIAS_EPOCHS * per_epoch)
        logits = answers(model.train(), images)
        F.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="sum").backward()
        for optimizer in (sgd, muon):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    accuracy = tested(model.eval(), test)
    return accuracy, time.perf_counter() - began


def optimizers(model: Speedy) -> tuple[torch.optim.SGD, Muon]:
    """SGD for biases and head, Muon for filters."""
    whiten, head = model.whiten.bias, model.head.weight
    assert whiten is not None
    biases = [each for each in model.parameters() if each.ndim == 1 and each is not whiten]
    filters = [each for each in model.parameters() if each.ndim == 4]
    groups = [
        {"params": parameters, "lr": lr, "weight_decay": DECAY / lr}
        for parameters, lr in (([whiten], BIAS_LR), (biases, BIAS_LR), ([head], HEAD_LR))
    ]
    sgd = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, fused=True)
    muon = Muon([{"params": filters, "inertia": FILTER_MOMENTUM}], lr=FILTER_LR, fused=True)
    return sgd, muon


def batches(train: Labelled) -> Iterator[Labelled]:
    """Those of all epochs: windows of the images, half of which are mirrored in even epochs and
    the others in odd ones.
    """
    pixels, labels = train
    is_mirrored = (torch.rand(len(pixels)) < 0.5)[:, None, None, None]
    padded = F.pad(torch.where(is_mirrored, pixels.flip(3), pixels), (SHIFT,) * 4, mode="reflect")
    for epoch in range(EPOCHS):
        images = windows(padded, pixels.shape[2])
        images = images.flip(3) if epoch % 2 else images
        order = torch.randperm(len(images))
        for indices in order[: len(order) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            yield Labelled(images[indices], labels[indices])
        print(f"plain: epoch {epoch + 1} of {EPOCHS}", flush=True)


def windows(padded: Tensor, side: int) -> Tensor:
    """A random window of each image."""
    offsets = torch.randint(2 * SHIFT + 1, (len(padded), 2))
    images = padded.new_empty(*padded.shape[:2], side, side)
    for row in range(2 * SHIFT + 1):
        for column in range(2 * SHIFT + 1):
            here = ((offsets[:, 0] == row) & (offsets[:, 1] == column)).nonzero()[:, 0]
            images[here] = padded[here, :, row : row + side, column : column + side]
    return images


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The logits in fp32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16("cpu")):
        logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


@torch.no_grad()
def tested(model: nn.Module, test: Labelled) -> float:
    """Accuracy with six views of each image."""

    def network(images: Tensor) -> Tensor:
        return answers(model, images)

    parts = test.pixels.split(BATCH_SIZE)
    logits = torch.cat([mean_logits(network, part, VIEWS["flip_shift"]) for part in parts])
    return float((logits.argmax(dim=1) == test.labels).double().mean())


def sprint(folder: str, seed: int) -> tuple[float, float]:
    """The recipe on the same pictures: test accuracy and seconds."""
    config = RECIPES["cifar10-sprint"]()
    config = replace(
        config,
        data=replace(config.data, name=folder),
        train=replace(config.train, seed=seed),
    )
    with TemporaryDirectory() as place:
        return timed_run(config, Path(place) / "run", cache_folder())


class Clocked(NamedTuple):
    """Test accuracy of a training, and when its clock started and stopped.

    As `time.perf_counter` tells it, which is the same for all processes of a machine.
    """

    accuracy: float
    began: float
    ended: float


class Trainings:
    """Both sides, by name."""

    def plain(self, folder: str, seed: int) -> Clocked:
        """The published training."""
        return clocked(*plain(folder, seed))

    def deepcnn(self, folder: str, seed: int) -> Clocked:
        """The recipe."""
        return clocked(*sprint(folder, seed))


def clocked(accuracy: float, seconds: float) -> Clocked:
    """Of a training that ends now."""
    now = time.perf_counter()
    return Clocked(accuracy, now - seconds, now)


@contextmanager
def trainings() -> Iterator[Trainings]:
    """What a process serves."""
    yield Trainings()


def by_turns(sides: Sequence[str], folder: str, seed: int) -> Iterator[tuple[str, float, float]]:
    """Name, test accuracy and seconds of each side, as it comes to its end."""
    with ExitStack() as stack:
        racing = {name: stack.enter_context(side(trainings)) for name in sides}
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for name, process in racing.items():
            process.begin(name, folder, seed)
        while racing:
            for name, process in list(racing.items()):
                began = time.perf_counter()
                has_ended = process.turn(TURNS[name] if len(racing) > 1 else None)
                turns[name].append((began, time.perf_counter()))
                if has_ended:
                    result = racing.pop(name).answer()
                    yield name, result.accuracy, seconds_within(turns[name], result)


def seconds_within(turns: Sequence[tuple[float, float]], result: Clocked) -> float:
    """How much of a side's turns its clock saw."""
    return sum(max(0.0, min(end, result.ended) - max(begin, result.began)) for begin, end in turns)


def settings(name: str) -> dict[str, Any]:
    """Where a side departs from the defaults; those of the plain one are all above."""
    if name == "plain":
        return {}
    defaults, recipe = flat(Config()), flat(RECIPES["cifar10-sprint"]())
    return {name: value for name, value in recipe.items() if value != defaults[name]}


def merged(runs: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with a new one, which replaces that of its side and seed, and all of its side with
    other settings.
    """
    others = [
        run
        for run in runs
        if run["side"] != new["side"]
        or (run["seed"] != new["seed"] and run["settings"] == new["settings"])
    ]
    return sorted([*others, new], key=lambda run: (run["seed"], SIDES.index(run["side"])))


def judged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and seconds of both sides, and over the seeds that both have their difference and
    ratio.
    """
    by_side = {name: {r["seed"]: r for r in runs if r["side"] == name} for name in SIDES}
    both = sorted(by_side["plain"].keys() & by_side["deepcnn"].keys())
    pairs = [(by_side["plain"][seed], by_side["deepcnn"][seed]) for seed in both]
    raced = [(a, b) for a, b in pairs if a["conditions"]["date"] == b["conditions"]["date"]]
    shares = [b["seconds"] / a["seconds"] for a, b in raced]
    return {
        "sides": {
            name: {
                "accuracy": summary([run["accuracy"] for run in found.values()]),
                "seconds": clock.spread([run["seconds"] for run in found.values()]),
            }
            for name, found in by_side.items()
            if found
        },
        "difference": pairs and summary([b["accuracy"] - a["accuracy"] for a, b in pairs]),
        "share_of_time": shares and clock.spread(shares),
        "target": TARGET,
    }


def in_words(record: dict[str, Any]) -> str:
    """The result so far, for a person."""
    rows = [["", "seeds", "mean accuracy", "95 % interval", "median seconds"]]
    for name, found in record["sides"].items():
        accuracy = found["accuracy"]
        low, high = accuracy["interval"] or (float("nan"),) * 2
        rows.append([
            name, str(accuracy["n"]), f"{accuracy['mean']:.2%}", f"{low:.2%} to {high:.2%}",
            f"{found['seconds']['median']:.0f}",
        ])  # fmt: skip
    if not record["difference"]:
        return table(rows)
    gain, share = record["difference"], record["share_of_time"]
    low, high = gain["interval"] or (float("nan"),) * 2
    text = (
        f"{table(rows)}\n\ndeepcnn less plain, seed by seed: {100 * gain['mean']:+.2f} points "
        f"({100 * low:+.2f} to {100 * high:+.2f})"
    )
    if not share:
        return text
    return (
        f"{text}, in {share['median']:.2f} of the time by turns ({share['min']:.2f} to "
        f"{share['max']:.2f}, n = {len(share['values'])}; target {TARGET})"
    )


def main() -> None:
    """Run, add each run to the record, print it."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("folder", help="train/CLASS/* and test/CLASS/*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES)
    arguments = parser.parse_args()
    try:
        load_splits(Data(name=arguments.folder, validation=0), seed=0)  # kept, for the processes
    except DeepcnnError as error:
        parser.error(str(error))
    path = arguments.results / f"{NAME}.json"
    runs = json.loads(path.read_bytes())["runs"] if path.exists() else []
    for seed in arguments.seeds:
        conditions = common.conditions(find_device("auto"))
        for name, accuracy, seconds in by_turns(arguments.sides, arguments.folder, seed):
            print(f"{name}, seed {seed}: {accuracy:.2%} in {seconds:.0f} s", flush=True)
            new = {
                "side": name, "seed": seed, "settings": settings(name), "accuracy": accuracy,
                "seconds": seconds, "conditions": conditions,
            }  # fmt: skip
            runs = merged(runs, new)
            record = {"name": NAME, "runs": runs, **judged(runs)}
            common.write(NAME, record, arguments.results)
    common.finish(NAME, record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
