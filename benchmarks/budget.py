"""Time budgets kept or not: the whole command, from the shell to its exit, against --budget.

    python benchmarks/budget.py --budgets 30s 2m
    python benchmarks/budget.py --cases ants-and-bees --photos FOLDER --weights FILE --budgets 30s

Each case runs alone, and once more with a second process that computes without end from half of
the budget on. Target: at most 5 % more than the budget, and at most 15 % less. What is measured is
added to the record, and replaces what was there of the same case, budget and load.
"""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

import common
import texts
from deepcnn import budget
from deepcnn.device import find_device
from deepcnn.table import table
from seeds import COMMAND

MOST, LEAST = 1.05, 0.85  # shares of the budget
CASES = ("fashion-mnist", "lenet-fashion-mnist", "ants-and-bees")
ENDLESS = [sys.executable, "-c", "while True: pass"]


def command(case: str, arguments: Namespace) -> list[str]:
    """How the case is trained."""
    if case == "ants-and-bees":
        weights = ["--weights", str(arguments.weights)] if arguments.weights else []
        return [COMMAND, "finetune", str(arguments.photos), *weights, "--data.on_bad", "skip"]
    return [COMMAND, "train", case, "--data.root", str(texts.DATASETS)]


def timed(words: list[str], limit: str, loaded: bool, cache: Path) -> dict[str, Any]:
    """Run it once within a budget, in a new process."""
    others: list[subprocess.Popen[bytes]] = []
    load = Timer(budget.seconds(limit) / 2, lambda: others.append(subprocess.Popen(ENDLESS)))
    with TemporaryDirectory() as place:
        out = ["--budget", limit, "--out", f"{place}/run", "--json"]
        environment = os.environ | {"DEEPCNN_CACHE": str(cache)}
        if loaded:
            load.start()
        began = time.perf_counter()
        try:
            done = subprocess.run([*words, *out], capture_output=True, text=True, env=environment)
            seconds = time.perf_counter() - began
        finally:
            load.cancel()
            for other in others:
                other.kill()
        if done.returncode:
            raise SystemExit(done.stderr)
        events = Path(place, "run", "events.jsonl").read_text(encoding="utf-8").splitlines()
    facts = json.loads(done.stdout)
    plans = [each for each in map(json.loads, events) if each["event"] == "plan"]
    return {
        "seconds": seconds,
        "share": seconds / budget.seconds(limit),
        "used": facts["budget"]["used"],
        "updates": facts["budget"]["updates"],
        "epochs": facts["budget"]["epochs"],
        "accuracy": facts["test"]["accuracy"],
        "policy": facts["policy"],
        "plans": plans,
    }


def measure(arguments: Namespace, cache: Path) -> Iterator[dict[str, Any]]:
    """Every case with every budget, alone and loaded."""
    for case, limit, load in product(arguments.cases, arguments.budgets, arguments.loads):
        conditions = common.conditions(find_device("auto"))
        found = timed(command(case, arguments), limit, load == "loaded", cache)
        yield {"case": case, "budget": limit, "loaded": load == "loaded", **found} | {
            "conditions": conditions
        }


def merged(path: Path, new: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured before and is not replaced, and the new row, in order."""

    def key(row: dict[str, Any]) -> tuple[int, float, bool]:
        return CASES.index(row["case"]), budget.seconds(row["budget"]), row["loaded"]

    before = json.loads(path.read_bytes())["runs"] if path.exists() else []
    return sorted({key(row): row for row in [*before, new]}.values(), key=key)


def in_words(rows: list[dict[str, Any]]) -> str:
    """The runs for a person."""
    cells = [["case", "budget", "second process", "took", "share", "updates", "epochs", ""]]
    for row in rows:
        verdict = "met" if LEAST <= row["share"] <= MOST else "MISSED"
        cells.append([
            row["case"], row["budget"], "from half-way" if row["loaded"] else "none",
            f"{row['seconds']:.1f} s", f"{row['share']:.1%}", f"{row['updates']:,}",
            f"{row['epochs']:.2f}", verdict,
        ])  # fmt: skip
    return table(cells)


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES[:2])
    parser.add_argument("--budgets", nargs="+", default=["30s", "2m", "10m"])
    parser.add_argument(
        "--loads", nargs="+", choices=("alone", "loaded"), default=["alone", "loaded"]
    )
    parser.add_argument("--photos", type=Path, help="folder of ants-and-bees, unpacked")
    parser.add_argument("--weights", type=Path, help="file of weights; default: the library's own")
    parser.add_argument("--cache", type=Path, help="caches to use; default: empty ones")
    arguments = parser.parse_args()
    if "ants-and-bees" in arguments.cases and not arguments.photos:
        parser.error("ants-and-bees needs --photos FOLDER")
    with TemporaryDirectory() as place:
        for row in measure(arguments, arguments.cache or Path(place)):
            record = {
                "name": "budget",
                "conditions": row["conditions"],
                "target": {"most": MOST, "least": LEAST},
                "runs": merged(arguments.results / "budget.json", row),
            }
            common.write("budget", record, arguments.results)
            print(in_words([row]), flush=True)
    common.finish("budget", record, in_words(record["runs"]), arguments.results)


if __name__ == "__main__":
    main()
