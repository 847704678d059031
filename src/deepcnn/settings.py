"""How a recipe, a file, the environment and options are laid over each other into one `Config`, in
which every value knows where it comes from.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from deepcnn.checked import Value, require_legal
from deepcnn.config import SECTIONS, Config
from deepcnn.errors import ConfigError, did_you_mean

ENVIRONMENT_PREFIX = "DEEPCNN_"
# Read elsewhere, and no settings: a folder of data sets, a folder for caches.
OTHER_ENVIRONMENT = {"DEEPCNN_DATA", "DEEPCNN_CACHE"}


# Every setting under its full name, such as `optim.lr`.
SETTINGS: dict[str, Any] = {
    f"{section}.{item.name}": item for section, kind in SECTIONS.items() for item in fields(kind)
}


def flat(config: Config) -> dict[str, Value]:
    """All settings under their full names, such as `optim.lr`."""
    return {
        f"{section}.{name}": value
        for section, values in asdict(config).items()
        for name, value in values.items()
    }


def descriptions() -> Iterator[tuple[str, str, str]]:
    """(full name, what is legal, help line) of every setting."""
    for name, item in SETTINGS.items():
        legal = " | ".join(item.metadata["choices"]) or item.metadata["range"]
        yield name, legal, item.metadata["description"]


def override(config: Config, changes: Mapping[str, object], origin: str) -> Config:
    """`config` with `changes` (full name -> value, or text to be read as one).

    Raises ConfigError naming `origin`, the key and the nearest known key.
    """
    return _with(config, _legal_values(changes, origin))


def resolve(
    recipe: tuple[str, Config],
    file: Path | None,
    environment: Mapping[str, str],
    options: Mapping[str, object],
) -> tuple[Config, dict[str, str]]:
    """Lay recipe, `--config` file, `DEEPCNN_*` variables and options over the defaults, in order.

    Returns the configuration and, for each setting, where its value comes from.
    """
    recipe_name, config = recipe
    defaults = flat(Config())
    origins = {
        key: "default" if value == defaults[key] else f"recipe {recipe_name}"
        for key, value in flat(config).items()
    }
    layers: list[tuple[str, Mapping[str, object]]] = [
        ("environment", _read_environment(environment, defaults)),
        ("option", options),
    ]
    if file:
        layers.insert(0, (str(file), _read_file(file)))
    values: dict[str, Value] = {}
    for origin, changes in layers:
        values |= _legal_values(changes, origin)
        origins |= dict.fromkeys(changes, origin)
    # Made once, of all layers: what one of them says may be legal only beside what the next says.
    return _with(config, values), origins


def to_toml(config: Config, origins: Mapping[str, str]) -> str:
    """The configuration as a TOML file that `--config` reads, each line with its origin."""
    lines = []
    for section, values in asdict(config).items():
        lines.append(f"[{section}]")
        for name, value in values.items():
            # JSON's numbers, booleans, strings and lists are TOML's too, but for one character.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            origin = " ".join(origins[f"{section}.{name}"].split())
            lines.append(f"{f'{name} = {text}':<36}# {origin}")
        lines.append("")
    return "\n".join(lines)


def from_dict(values: Mapping[str, Mapping[str, object]], origin: str) -> Config:
    """The `Config` that `dataclasses.asdict` made `values` of."""
    changes = {
        f"{section}.{name}": value
        for section, settings in values.items()
        for name, value in settings.items()
    }
    return override(Config(), changes, origin)


def _legal_values(changes: Mapping[str, object], origin: str) -> dict[str, Value]:
    """Each change as a value of its setting's type and range."""
    values = {}
    for key, value in changes.items():
        if key not in SETTINGS:
            raise ConfigError(f"{origin}: unknown setting {key}{did_you_mean(key, SETTINGS)}")
        values[key] = _read(key, value, SETTINGS[key].type, origin)
        try:
            require_legal(key, values[key], SETTINGS[key])
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
    return values


def _with(config: Config, values: Mapping[str, Value]) -> Config:
    """`config` with other values, checked as a whole."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        by_section.setdefault(section, {})[name] = value
    return replace(config, **{
        section: replace(getattr(config, section), **changed)
        for section, changed in by_section.items()
    })  # fmt: skip


def _read_file(path: Path) -> dict[str, object]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # of TOML, of UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    for section in tables.keys() - SECTIONS.keys():
        if isinstance(tables[section], dict):
            hint = did_you_mean(section, SECTIONS)
            raise ConfigError(f"{path}: unknown section [{section}]{hint}")
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        raise ConfigError(
            f"{path}: {loose[0]} stands outside a section; "
            f"expected one of {', '.join(f'[{name}]' for name in SECTIONS)} above it"
        )
    return {
        f"{section}.{name}": v for section, table in tables.items() for name, v in table.items()
    }


def _read_environment(
    environment: Mapping[str, str], known: Mapping[str, object]
) -> dict[str, object]:
    names = {ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): key for key in known}
    given = {
        name: value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in OTHER_ENVIRONMENT
    }
    for name in given.keys() - names.keys():
        raise ConfigError(f"environment: unknown variable {name}{did_you_mean(name, names)}")
    return {names[name]: value for name, value in given.items()}


def _read(key: str, value: object, kind: Any, origin: str) -> Value:
    """Turn text from outside, or a value of a file, into the type of the setting."""
    try:
        if kind is bool:
            return _read_bool(value)
        if kind is int:
            return _read_int(value)
        if kind is float:
            return _read_float(value)
        if kind is str:
            return _read_text(value)
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError
        return () if parts == [""] else tuple(map(_read_float, parts))
    except (ValueError, OverflowError):
        expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        wanted = expected.get(kind, "numbers separated by commas")
        raise ConfigError(f"{origin}: {key} is {value!r}, expected {wanted}") from None


def _read_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError


def _read_int(value: object) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _read_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _read_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError
