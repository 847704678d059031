"""Frozen data that is checked when it is made: `setting` declares a field, `Section` checks."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from deepcnn.errors import ConfigError, did_you_mean

Value = bool | int | float | str | tuple[float, ...]


def setting(
    default: Value,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """Declare one field of the configuration: its default, its help line and its legal range."""
    metadata = {
        "description": description,
        "choices": choices,
        "legal": lambda value: at_least <= value <= at_most and above < value < below,
        "range": _range_in_words(at_least, above, at_most, below),
    }
    return field(default=default, metadata=metadata)


def _range_in_words(at_least: float, above: float, at_most: float, below: float) -> str:
    bounds = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
    words = [
        f"{word} {bound:{'.6g' if bound < 1e9 else ',d'}}"
        for word, bound in bounds
        if math.isfinite(bound)
    ]
    return " and ".join(words)


def require_legal(key: str, value: Any, item: Any) -> None:
    """Raise ConfigError unless `value` is in the range of the setting."""
    choices = item.metadata["choices"]
    if choices and value not in choices:
        expected = f"{', '.join(choices)}{did_you_mean(value, choices)}"
        raise ConfigError(f"{key} is {value!r}, expected one of {expected}")
    if isinstance(value, str):
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not item.metadata["legal"](number):
            raise ConfigError(f"{key} is {number}, expected {item.metadata['range']}")


@dataclass(frozen=True)
class Section:
    """A group of settings, checked when it is made."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, float) and isinstance(value, int):
                value = float(value)  # or equal settings would be printed in two ways
                object.__setattr__(self, item.name, value)
            require_legal(f"{type(self).__name__.lower()}.{item.name}", value, item)
