import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcnn.checked import Section, Value
from deepcnn.config import SECTIONS, Config, Optim, Train
from deepcnn.errors import ConfigError
from deepcnn.settings import flat, from_dict, override, resolve, to_toml

RECIPE = ("mine", Config())
ALL = flat(Config())
INTEGERS = (0, 1, 2, 64, 4_096, 2**40, 2**63 - 1)
FLOATS = (0.0, 1e-300, 1e-5, 0.1 + 0.2, 0.999, 1.0, 7.0, 1e6, 1e16, 1.7e308)
# TOML knows no surrogates.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=12)


def legal(item: Any) -> st.SearchStrategy[Any]:
    """Values of one setting, by its metadata."""
    metadata = item.metadata
    if item.name == "memory":
        return st.sampled_from(["", "0", "100", "1.5 GB", "8GiB", " 12mb "])
    if metadata["choices"]:
        return st.sampled_from(metadata["choices"])
    if item.type is int:
        edges = [number for number in INTEGERS if metadata["legal"](number)]
        return st.sampled_from(edges) | st.integers(1, 64)
    inside = st.floats(0, 1, exclude_min=True, exclude_max=True).filter(metadata["legal"])
    if item.type is float:
        return st.sampled_from([x for x in FLOATS if metadata["legal"](x)]) | inside
    others = {bool: st.booleans(), str: text}
    return others.get(item.type, st.lists(inside, max_size=4).map(tuple))


def sections(kind: type[Section]) -> st.SearchStrategy[Section]:
    return st.builds(kind, **{item.name: legal(item) for item in fields(kind)})


def reconcile(parts: Mapping[str, Any]) -> Config:
    """Take back what the checks across settings forbid."""
    optim, train = parts["optim"], parts["train"]
    if optim.schedule != "step":
        optim = replace(optim, milestones=())
    if not optim.momentum:
        optim = replace(optim, nesterov=False)
    train = replace(train, accumulate=min(train.accumulate, train.batch_size))
    augment = parts["augment"]
    if train.hardest < 1:
        augment = replace(augment, mixup=0.0, cutmix=0.0)
    data = parts["data"]
    shares = {
        name: value if value < 1 else float(int(value))
        for name, value in (("validation", data.validation), ("test", data.test))
    }
    sure = 1.0 if data.views == "plain" else data.sure
    data = replace(data, **shares, mean=data.std, sure=sure)
    transfer = parts["transfer"]
    if not transfer.freeze:
        transfer = replace(transfer, unfreeze_at=0.0)
    changed = {"data": data, "transfer": transfer, "optim": optim, "train": train}
    return Config(**{**parts, **changed, "augment": augment})


configs = st.fixed_dictionaries({name: sections(kind) for name, kind in SECTIONS.items()}).map(
    reconcile
)


def as_text(value: Value) -> str:
    """A value as a person types it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def variable(key: str) -> str:
    return "DEEPCNN_" + key.upper().replace(".", "_")


def written(folder: Path, content: str) -> Path:
    file = folder / "run.toml"
    file.write_text(content, encoding="utf-8")
    return file


@settings(deadline=None, max_examples=60)
@given(config=configs)
def test_a_printed_configuration_is_read_back(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    printed = to_toml(config, dict.fromkeys(ALL, "option"))
    tables = tomllib.loads(printed)
    assert list(tables) == list(SECTIONS)
    assert {f"{s}.{n}": v for s, table in tables.items() for n, v in table.items()} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat(config).items()
    }
    file = written(tmp_path_factory.getbasetemp(), printed)
    assert resolve(RECIPE, file, {}, {}) == (config, dict.fromkeys(ALL, str(file)))


@settings(deadline=None, max_examples=60)
@given(configs)
def test_every_setting_can_be_given_as_text(config: Config) -> None:
    typed = {key: as_text(value) for key, value in flat(config).items()}
    variables = {variable(key): value for key, value in typed.items()}
    assert resolve(RECIPE, None, {}, typed) == (config, dict.fromkeys(ALL, "option"))
    assert resolve(RECIPE, None, variables, {}) == (config, dict.fromkeys(ALL, "environment"))


@settings(deadline=None, max_examples=60)
@given(configs)
def test_a_recorded_configuration_is_read_back(config: Config) -> None:
    assert from_dict(asdict(config), "run/config.json") == config


def test_each_line_says_where_its_value_comes_from(tmp_path: Path) -> None:
    file = written(tmp_path, "[train]\nepochs = 5")
    recipe = ("mine", Config(optim=Optim(lr=0.5)))
    config, origins = resolve(recipe, file, {"DEEPCNN_TRAIN_SEED": "1"}, {"data.size": "8"})
    lines = to_toml(config, origins).splitlines()
    expected = {
        "lr = 0.5": "recipe mine",
        "epochs = 5": str(file),
        "seed = 1": "environment",
        "size = 8": "option",
        "momentum = 0.9": "default",
    }
    for line, origin in expected.items():
        assert [x.split("#")[1].strip() for x in lines if x.startswith(line + " ")] == [origin]


@pytest.mark.parametrize("given_by", range(16))
def test_later_layers_win(given_by: int, tmp_path: Path) -> None:
    """Each of the four layers gives the number of epochs or does not: bits of `given_by`."""
    recipe, in_file, in_environment, in_options = (bool(given_by & 1 << bit) for bit in range(4))
    file = written(tmp_path, "[train]\nepochs = 102" if in_file else "[train]\nseed = 7")
    config, origins = resolve(
        ("mine", Config(train=Train(epochs=101)) if recipe else Config()),
        file,
        {"DEEPCNN_TRAIN_EPOCHS": "103"} if in_environment else {},
        {"train.epochs": "104"} if in_options else {},
    )
    layers = [(10, "default"), (101, "recipe mine"), (102, str(file)), (103, "environment"),
              (104, "option")]  # fmt: skip
    present = (True, recipe, in_file, in_environment, in_options)
    expected = [layer for layer, there in zip(layers, present, strict=True) if there][-1]
    assert (config.train.epochs, origins["train.epochs"]) == expected
    assert config.train.seed == (0 if in_file else 7)
    assert set(origins) == set(ALL)


def test_what_belongs_to_others_in_the_environment_is_left_alone() -> None:
    others = {"PATH": "x", "DEEPCNN_DATA": "x", "DEEPCNN_CACHE": "x", "XDEEPCNN_OPTIM_LR": "2"}
    assert resolve(RECIPE, None, others, {})[0] == Config()
    assert len({variable(key) for key in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[optim]\nlrr = 0.1", r"unknown setting optim\.lrr; did you mean optim\.lr\?"),
        ("[optm]\nlr = 0.1", r"unknown section \[optm\]; did you mean optim\?"),
        ("[optim.lr]\nvalue = 1", r"optim\.lr is \{'value': 1\}, expected a number"),
        ("[optim.adam]\nlr = 1", r"unknown setting optim\.adam"),
        ("lr = 0.1\n[optim]", r"lr stands outside a section; expected one of \[data\], \[model\]"),
        ("[optim", "is not a TOML file"),
        ("[optim]\nlr = 0.1\nlr = 0.2", "is not a TOML file"),
    ],
)
def test_mistakes_in_a_file_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"run\.toml\S* {message}"):
        resolve(RECIPE, file, {}, {})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read .*nowhere\.toml: No such file"):
        resolve(RECIPE, tmp_path / "nowhere.toml", {}, {})
    with pytest.raises(ConfigError, match=r"^cannot read .*: Is a directory"):
        resolve(RECIPE, tmp_path, {}, {})
    (tmp_path / "latin.toml").write_bytes(b"[data]\nroot = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml is not a TOML file"):
        resolve(RECIPE, tmp_path / "latin.toml", {}, {})


def test_unknown_variables_and_options_are_named() -> None:
    nearest = "unknown variable DEEPCNN_OPTIM_LRR; did you mean DEEPCNN_OPTIM_LR"
    with pytest.raises(ConfigError, match=rf"^environment: {nearest}\?$"):
        resolve(RECIPE, None, {"DEEPCNN_OPTIM_LRR": "1"}, {})
    with pytest.raises(ConfigError, match=r"^option: unknown setting optim\.lrr; did you mean op"):
        resolve(RECIPE, None, {}, {"optim.lrr": "1"})
    with pytest.raises(ConfigError, match=r"^option: unknown setting \?$"):
        resolve(RECIPE, None, {}, {"?": "1"})


WRONG: dict[Any, list[object]] = {
    bool: ["yes", "1", "", 1, 0.0, []],
    int: ["1.0", "1e3", "many", "", "nan", 1.0, True, []],
    float: ["fast", "", "nan", "inf", "-inf", "0,1", True, [], {}, float("nan"), float("inf")],
    str: [1, 1.5, True, []],
    tuple[float, ...]: ["a", "0.1;0.2", "nan", 0.1, True, ["x"], [True], [[0.1]]],
}
EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[float, ...]: "numbers separated by commas",
}


@pytest.mark.parametrize("key", ALL)
def test_values_of_another_type_are_refused(key: str) -> None:
    section, name = key.split(".")
    kind: Any = {item.name: item.type for item in fields(SECTIONS[section])}[name]
    for value in WRONG[kind]:
        with pytest.raises(ConfigError, match=rf"^option: {key} is .*, expected {EXPECTED[kind]}$"):
            resolve(RECIPE, None, {}, {key: value})
        if isinstance(value, str):
            with pytest.raises(
                ConfigError, match=rf"^environment: {key} is .*, expected {EXPECTED[kind]}"
            ):
                resolve(RECIPE, None, {variable(key): value}, {})


def test_values_of_another_type_in_a_file_are_refused(tmp_path: Path) -> None:
    for line in ("lr = true", "lr = 1979-05-27", "lr = inf", "milestones = 0.5", "name = 3"):
        with pytest.raises(ConfigError, match=r"run\.toml: optim\.\w+ is .*, expected "):
            resolve(RECIPE, written(tmp_path, f"[optim]\n{line}"), {}, {})


def test_whole_numbers_will_do_for_numbers(tmp_path: Path) -> None:
    config, _ = resolve(RECIPE, written(tmp_path, "[optim]\nlr = 1\nmilestones = []"), {}, {})
    assert type(config.optim.lr) is float


@pytest.mark.parametrize(
    "changes", [{"optim.lr": "0"}, {"train.batch_size": "0"}, {"train.epochs": "-1"},
                {"optim.nesterov": "true", "optim.momentum": "0"}],
)  # fmt: skip
def test_values_out_of_range_are_refused_in_every_layer(changes: dict[str, str]) -> None:
    for environment, options in (({}, changes), ({variable(k): v for k, v in changes.items()}, {})):
        with pytest.raises(ConfigError):
            resolve(RECIPE, None, environment, options)
    with pytest.raises(ConfigError):
        override(Config(), changes, "option")


def test_an_empty_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optm"):
        resolve(RECIPE, written(tmp_path, "[optm]"), {}, {})


@pytest.mark.parametrize("digits", [400, 5_000])
def test_numbers_beyond_all_measure_are_refused(digits: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        resolve(RECIPE, written(tmp_path, f"[optim]\nlr = {'9' * digits}"), {}, {})


def test_a_delete_character_is_printed_so_that_it_can_be_read(tmp_path: Path) -> None:
    config = override(Config(), {"data.root": "a\x7f"}, "option")
    file = written(tmp_path, to_toml(config, dict.fromkeys(ALL, "option")))
    assert resolve(RECIPE, file, {}, {})[0] == config


def test_only_the_outcome_of_all_layers_must_be_legal() -> None:
    recipe = ("mine", Config(optim=Optim(momentum=0.9, nesterov=True)))
    variables, options = {"DEEPCNN_OPTIM_MOMENTUM": "0"}, {"optim.nesterov": "false"}
    config, _ = resolve(recipe, None, variables, options)
    assert (config.optim.momentum, config.optim.nesterov) == (0, False)
