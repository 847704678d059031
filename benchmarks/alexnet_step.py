"""Training AlexNet on Fashion-MNIST at 1x224x224: the texts' own way against deepcnn's.

Both sides train in turns of a few updates, loading included. The texts' side is the script of
text 002 (see texts.py); deepcnn's side is the run that `deepcnn train alexnet-fashion-mnist`
makes, through the package's own loop, in the precision and layout that it chooses here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import texts
from deepcnn import runlog
from deepcnn.begin import begin
from deepcnn.bench import clock, limits, step
from deepcnn.bench.sides import side
from deepcnn.config import Config
from deepcnn.device import find_device
from deepcnn.recipes import alexnet_fashion_mnist
from deepcnn.table import table

TARGET = 3.0  # times as many images per second as the texts' way
CHECKPOINTS = 3  # measured apart from the updates


@contextmanager
def training(config: Config) -> Iterator[step.Ours]:
    """A run as the command would begin it, with a policy measured here and now."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with runlog.opened(folder):
            yield step.Ours(begin(config, folder, Path(place) / "cache", accept_change=False))


def settings(batch_size: int, threads: int) -> Config:
    """The recipe, without checkpoints by the clock: they would fall into one round or another."""
    config = alexnet_fashion_mnist()
    return replace(
        config,
        data=replace(config.data, root=str(texts.DATASETS)),
        train=replace(
            config.train, batch_size=batch_size or config.train.batch_size, checkpoint_seconds=1e9
        ),
        hardware=replace(config.hardware, threads=threads),
    )


def measure(config: Config, steps: int, rounds: int) -> dict[str, Any]:
    """Take turns, then time the checkpoints."""
    device, threads = find_device(config.hardware.device), config.hardware.threads
    batch_size = config.train.batch_size
    peak = limits.measured_peak(device)
    with side(texts.training, batch_size, device, threads) as before, side(training, config) as run:
        turns = {
            "texts": partial(before.ask, "train", steps),
            "deepcnn": partial(run.ask, "train", steps),
        }
        seconds = clock.alternate(turns, rounds, "AlexNet")
        losses = {"texts": before.ask("train", 1)[0], "deepcnn": run.ask("train", 1)}
        saving = [clock.timed(partial(run.ask, "save")) for _ in range(CHECKPOINTS)]
        policy = asdict(run.ask("policy"))
    # A peak that a neighbour has lowered would make every share of it look better.
    peak = limits.higher(peak, limits.measured_peak(device))
    return {
        "settings": {"batch_size": batch_size, "steps_per_round": steps, "rounds": rounds},
        "policy": policy,
        "peak_gflops": peak,
        "loss_at_end": losses,
        **speeds(seconds, steps * batch_size, peak),
        "checkpoint": checkpoint_cost(saving),
    }


def speeds(seconds: dict[str, list[float]], images: int, peak: limits.Peaks) -> dict[str, Any]:
    """Images per second of each side, their ratio, and how much of the machine that is."""
    work = step.gflop_per_image(step.WORK["alexnet-d2l"])
    record: dict[str, Any] = {"gflop_per_image": work}
    for name, speed in clock.rates(seconds, images).items():
        gflops = work * speed["median"]
        shares = {key: gflops / value["convolution"] for key, value in peak.items()}
        record[name] = {"images_per_second": speed, "gflops": gflops, "share_of_peak": shares}
    record["ratio"] = clock.compared(seconds["texts"], seconds["deepcnn"])
    record["target"] = TARGET
    record["met"] = record["ratio"]["of_medians"] >= TARGET
    return record


def checkpoint_cost(saving: list[float]) -> dict[str, Any]:
    """What a checkpoint a minute adds to training time."""
    every = alexnet_fashion_mnist().train.checkpoint_seconds
    seconds = clock.spread(saving)
    return {"seconds": seconds, "share_of_time": seconds["median"] / (every + seconds["median"])}


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    ratio, policy, saving = record["ratio"], record["policy"], record["checkpoint"]
    peaks = [
        f"measured peak {name}: convolution {peak['convolution']:.0f}, "
        f"product {peak['product']:.0f} GFLOP/s"
        for name, peak in record["peak_gflops"].items()
    ]
    return "\n".join([
        common.describe(record["conditions"]),
        f"deepcnn chose {policy['precision']}, {policy['layout']}, {policy['threads']} threads on "
        f"{policy['device']}",
        f"{record['gflop_per_image']:.2f} GFLOP per image, forward and backward",
        *peaks,
        table(rows(record)),
        f"ratio {ratio['of_medians']:.2f} (rounds: median {ratio['median_of_rounds']:.2f}, "
        f"{ratio['min']:.2f} to {ratio['max']:.2f}), target {TARGET}: "
        f"{'met' if record['met'] else 'MISSED'}",
        f"a checkpoint takes {saving['seconds']['median']:.2f} s: one a minute takes "
        f"{saving['share_of_time']:.1%} of the time",
    ])  # fmt: skip


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The table: a line for each side."""
    lines = [["", "images/s", "lowest", "highest", "GFLOP/s", "of bf16 peak", "of fp32 peak"]]
    for name in ("texts", "deepcnn"):
        side = record[name]
        speed, share = side["images_per_second"], side["share_of_peak"]
        cells = [f"{speed[key]:.1f}" for key in ("median", "min", "max")]
        shares = [f"{share[key]:.1%}" for key in ("bf16", "fp32")]
        lines.append([name, *cells, f"{side['gflops']:.0f}", *shares])
    return lines


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=7)
    parser.add_argument("--steps", type=common.positive, default=5, help="updates a turn (5)")
    parser.add_argument("--batch", type=int, default=0, help="images per update (the recipe's)")
    parser.add_argument("--threads", type=int, default=0, help="of both sides (all; chosen)")
    arguments = parser.parse_args()
    config = settings(arguments.batch, arguments.threads)
    facts = common.conditions(find_device(config.hardware.device))
    record = {"name": "alexnet_step", "conditions": facts}
    record |= measure(config, arguments.steps, arguments.rounds)
    common.finish("alexnet_step", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
