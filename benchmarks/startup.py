"""How long `deepcnn --help` takes, beside Python itself and beside importing torch.

A command line that answers at once must not import torch before it has to; this is checked too.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
from deepcnn.bench import clock
from deepcnn.table import table

TARGET = 0.3  # seconds, median
COMMAND = str(Path(sys.executable).with_name("deepcnn"))
SIDES = {
    "deepcnn --help": [COMMAND, "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}
HEAVY = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "rich", "scipy")
IMPORTED = """
import sys
from deepcnn.cli import main
try:
    main(["--help"])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""


def call(command: Sequence[str]) -> str:
    """Run a command quietly to its end; return what it wrote to stderr."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def heavy_imports() -> list[str]:
    """The heavy packages that `deepcnn --help` imports."""
    imported = set(call([sys.executable, "-c", IMPORTED]).split())
    return [name for name in HEAVY if name in imported]


def measure(rounds: int) -> dict[str, Any]:
    """Take turns, each a new process."""
    sides = {name: partial(call, command) for name, command in SIDES.items()}
    seconds = clock.alternate(sides, rounds, "starting")
    imported = heavy_imports()
    record: dict[str, Any] = {
        "seconds": {name: clock.spread(values) for name, values in seconds.items()},
        "heavy_imports": imported,
        "target": TARGET,
    }
    median = record["seconds"]["deepcnn --help"]["median"]
    record["met"] = median < TARGET and "torch" not in imported
    return record


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["milliseconds", "median", "lowest", "highest"]]
    for name, values in record["seconds"].items():
        rows.append([name, *(f"{1000 * values[key]:.0f}" for key in ("median", "min", "max"))])
    imported = ", ".join(record["heavy_imports"]) or "none"
    return "\n".join([
        common.describe(record["conditions"]),
        table(rows),
        f"heavy packages that deepcnn --help imports: {imported}",
        f"target {1000 * TARGET:.0f} ms without torch: {'met' if record['met'] else 'MISSED'}",
    ])  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    arguments = common.options(__doc__, rounds=15).parse_args()
    record = {"name": "startup", "conditions": common.conditions()}
    record |= measure(arguments.rounds)
    common.finish("startup", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
