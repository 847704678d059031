"""What `deepcnn` foretells of a run's memory and time, beside what the run then takes.

    python benchmarks/forecast.py            # memory: networks, batches, precisions, optimisers
    python benchmarks/forecast.py --times    # time: deepcnn plan, then the run
    python benchmarks/forecast.py --batches  # batch size against memory and speed, as a picture

Every run is a new process of the real command, on images of noise where only memory counts. What
stands in the results already is not run again.
"""

import argparse
import gzip
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import common
from deepcnn.curves import save_picture
from deepcnn.table import table

COMMAND = [sys.executable, "-c", "from deepcnn.cli import program; program()"]
UPDATES, ASKED = 6, 64  # updates of a run; images held out, and images of its test set
CASES = (
    # network, side, batch, precision, optimiser
    ("lenet", 32, 512, "fp32", "sgd"),
    ("compact", 28, 512, "bf16", "muon"),
    ("speedy", 32, 256, "bf16", "muon"),
    ("resnet20", 32, 128, "bf16", "sgd"),
    ("resnet20", 32, 256, "fp32", "adamw"),
    ("resnet56", 32, 64, "fp32", "sgd"),
    ("resnet18", 64, 32, "bf16", "muon"),
    ("resnet18", 64, 64, "fp32", "sgd"),
    ("resnet50", 64, 16, "bf16", "adamw"),
    ("alexnet-d2l", 224, 32, "fp32", "sgd"),
    ("alexnet-d2l", 224, 64, "bf16", "adamw"),
    ("alexnet-owt", 224, 64, "bf16", "sgd"),
    ("vgg11", 224, 8, "fp32", "sgd"),
    ("vgg11-bn", 64, 64, "bf16", "sgd"),
    ("vgg16", 64, 16, "bf16", "adamw"),
    ("googlenet", 224, 8, "bf16", "adamw"),
    ("googlenet", 96, 16, "fp32", "sgd"),
    ("torchvision/mobilenet_v2", 96, 32, "bf16", "sgd"),
)
TIMES = (
    ("fashion-mnist",),
    ("fashion-mnist-93",),
    ("lenet-fashion-mnist", "--train.epochs", "3"),
    ("fashion-mnist", "--model.name", "resnet20", "--train.epochs", "1", "--data.validation",
     "50000", "--data.pad", "2"),
)  # fmt: skip
BATCHES = (16, 32, 64, 128, 256, 512)
BATCH_NETWORK, BATCH_SIDE = "resnet18", 32
PICTURE = common.REPOSITORY / "docs" / "forecast-batches.png"


def noise(folder: Path, num_train: int) -> Path:
    """A data set of noise in the IDX layout, 28x28."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, number in (("train", num_train), ("t10k", ASKED)):
        images = generator.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            path = folder / f"{split}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(header + values.tobytes(), 1))
    return folder


def answer(*arguments: object) -> tuple[dict[str, Any], float]:
    """What a command says as JSON, and the seconds it took."""
    began = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *map(str, arguments), "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)  # the command has said why
    result: dict[str, Any] = json.loads(done.stdout)
    return result, time.perf_counter() - began


def options(network: str, side: int, batch: int, precision: str, optimizer: str) -> list[object]:
    """The run of a case, on a set of so many images that it has `UPDATES` updates."""
    return [
        "--model.name", network, "--data.size", side, "--data.pad", 0, "--data.validation", ASKED,
        "--train.batch_size", batch, "--train.epochs", 1, "--optim.name", optimizer, "--optim.lr",
        1e-4, "--optim.nesterov", "false", "--hardware.device", "cpu", "--hardware.precision",
        precision, "--hardware.layout", "channels_last", "--hardware.threads", 2,
        "--augment.crop", 0,
    ]  # fmt: skip


def memory(*case: Any) -> dict[str, Any]:
    """One run: the peak it foretold and the one it had."""
    with TemporaryDirectory() as place:
        data = noise(Path(place) / "noise", UPDATES * case[2] + ASKED)
        out = ("--out", Path(place) / "run")
        facts, _ = answer("train", "fashion-mnist", "--data.name", data, *options(*case), *out)
    foretold = facts["forecast"]
    names = ("network", "side", "batch", "precision", "optimizer")
    return {
        **dict(zip(names, case, strict=True)),
        "foretold": foretold["memory"],
        "phase": foretold["memory_phase"],
        "peak": facts["peak_memory"],
        "error": foretold["memory_error"],
    }


def seconds(*case: str) -> dict[str, Any]:
    """A plan, and then the run."""
    with TemporaryDirectory() as place:
        settled = ("--hardware.policy", "off")
        plan, planning = answer("plan", *case, *settled)
        facts, took = answer("train", *case, *settled, "--out", Path(place) / "run")
    foretold = plan["seconds"]["total"]
    in_run = facts["forecast"]
    return {
        "command": " ".join(case),
        "planning": planning,
        "foretold": foretold,
        "seconds": took,
        "error": foretold / took - 1,
        "error_within_the_run": in_run["seconds_error"],
    }


def one_batch_size(size: int) -> dict[str, Any]:
    """The plan of a batch size, and the run: memory, and images a second."""
    case = (BATCH_NETWORK, BATCH_SIDE, size, "bf16", "sgd")
    with TemporaryDirectory() as place:
        data = noise(Path(place) / "noise", max(24 * 16, UPDATES * size) + ASKED)
        chosen = ("fashion-mnist", "--data.name", data, *options(*case))
        plan, _ = answer("plan", *chosen)
        facts, _ = answer("train", *chosen, "--out", Path(place) / "run")
    return {
        "batch": size,
        "foretold": plan["memory"]["peak"],
        "peak": facts["peak_memory"],
        "foretold_images_per_second": size / plan["seconds"]["update"],
        "images_per_second": facts["num_train_images"] / facts["seconds"],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Memory and speed by batch size, foretold and measured."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (title, foretold, measured, scale) in zip(
        figure.subplots(1, 2),
        (
            ("peak memory, GB", "foretold", "peak", 1e9),
            ("images a second", "foretold_images_per_second", "images_per_second", 1.0),
        ),
        strict=True,
    ):
        sizes = [row["batch"] for row in rows]
        axes.plot(
            sizes, [row[foretold] / scale for row in rows], "--", marker="o", label="foretold"
        )
        axes.plot(sizes, [row[measured] / scale for row in rows], marker="s", label="measured")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.set(title=title, xlabel="batch size")
        axes.legend()
    save_picture(figure, path)


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    lines = [common.describe(record["conditions"])]
    if record["memory"]:
        head = ["network", "side", "batch", "precision", "optimiser", "foretold, MB", "peak, MB"]
        lines.append(table([[*head, "error"]] + [
            [
                row["network"], *(str(row[name]) for name in ("side", "batch", "precision")),
                row["optimizer"], f"{row['foretold'] / 1e6:,.0f}", f"{row['peak'] / 1e6:,.0f}",
                f"{row['error']:+.1%}",
            ]
            for row in record["memory"]
        ]))  # fmt: skip
    if record["times"]:
        lines.append(table([["command", "foretold, s", "took, s", "error"]] + [
            [row["command"], f"{row['foretold']:.1f}", f"{row['seconds']:.1f}",
             f"{row['error']:+.1%}"]
            for row in record["times"]
        ]))  # fmt: skip
    if record["batches"]:
        head = ["batch", "foretold, MB", "peak, MB", "foretold, images/s", "images/s"]
        lines.append(table([head] + [
            [
                str(row["batch"]), f"{row['foretold'] / 1e6:,.0f}", f"{row['peak'] / 1e6:,.0f}",
                f"{row['foretold_images_per_second']:,.0f}", f"{row['images_per_second']:,.0f}",
            ]
            for row in record["batches"]
        ]))  # fmt: skip
    return "\n\n".join(lines)


def arguments() -> argparse.Namespace:
    """What is to be measured."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--times", action="store_true", help="time instead of memory")
    parser.add_argument("--batches", action="store_true", help="batch sizes instead")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, print, record, draw."""
    chosen = arguments()
    path = chosen.results / "forecast.json"
    record: dict[str, Any] = {"name": "forecast", "memory": [], "times": [], "batches": []}
    if path.exists():
        record |= json.loads(path.read_text())
    part = "times" if chosen.times else "batches" if chosen.batches else "memory"
    if chosen.again:
        record[part] = []
    record["conditions"] = common.conditions()
    measures: dict[str, tuple[Callable[..., dict[str, Any]], Sequence[Sequence[Any]]]] = {
        "memory": (memory, CASES),
        "times": (seconds, TIMES),
        "batches": (one_batch_size, [(size,) for size in BATCHES]),
    }
    measure, cases = measures[part]
    for case in cases[len(record[part]) :]:
        record[part].append(measure(*case))
        print(record[part][-1], file=sys.stderr, flush=True)
        common.write("forecast", record, chosen.results)
    if part == "batches":
        draw(record["batches"], PICTURE)
    common.finish("forecast", record, in_words(record), chosen.results)


if __name__ == "__main__":
    main()
