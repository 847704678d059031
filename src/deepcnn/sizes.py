"""Amounts of memory as text: 8GiB, 1.5 GB."""

import re

from deepcnn.errors import ConfigError

UNITS = {
    "": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
NAMES = {name.lower(): size for name, size in UNITS.items()}


def parse_size(text: str) -> int:
    """Bytes of a number with a unit, which may be missing; ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if not found or found[2].lower() not in NAMES:
        raise ConfigError(f"hardware.memory is {text!r}, expected an amount such as 8GiB or 500MB")
    return int(float(found[1]) * NAMES[found[2].lower()])


def limit(text: str) -> int | None:
    """The same of a limit that may be left out: none for an empty text."""
    return parse_size(text) if text else None


def in_bytes(size: float) -> str:
    """An amount in the unit that suits it, with three digits: 1.42 GB, 530 MB."""
    for name in ("TB", "GB", "MB", "kB"):
        if abs(size) >= UNITS[name]:
            number = size / UNITS[name]
            return f"{number:.{max(0, 3 - len(str(int(abs(number)))))}f} {name}"
    return f"{size:.0f} bytes"
