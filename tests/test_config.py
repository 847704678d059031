import math
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest

from deepcnn.checked import Section, Value
from deepcnn.config import (
    SECTIONS,
    Augment,
    Config,
    Data,
    Hardware,
    Model,
    Optim,
    Train,
    Transfer,
)
from deepcnn.errors import ConfigError
from deepcnn.settings import descriptions, flat

LARGE = 10**30

# For each numeric setting the values at the edges of what is legal, and those just beyond.
EDGES: dict[str, tuple[list[float], list[float]]] = {
    "data.validation": ([0, 0.1, 1e30], [-1]),
    "data.test": ([0, 0.1, 1e30], [-1]),
    "data.keep": ([0.1, 1], [0.09, 1.01]),
    "data.size": ([0, 4_096], [-1, 4_097]),
    "data.pad": ([0, 512], [-1, 513]),
    "data.sure": ([1e-9, 1.0], [0.0, 1.1]),
    "augment.crop": ([0, 64], [-1, 65]),
    "augment.crop_area": ([0.0, 1.0], [-0.1, 1.1]),
    "augment.rotate": ([0.0, 180.0], [-1.0, 180.1]),
    "augment.zoom": ([0.0, 0.99], [-0.1, 1.0]),
    "augment.brightness": ([0.0, 10.0], [-0.1, 10.1]),
    "augment.contrast": ([0.0, 10.0], [-0.1, 10.1]),
    "augment.saturation": ([0.0, 10.0], [-0.1, 10.1]),
    "augment.hue": ([0.0, 0.5], [-0.1, 0.51]),
    "augment.pca_noise": ([0.0, 100.0], [-0.1, 100.1]),
    "augment.erase": ([0.0, 1.0], [-0.1, 1.1]),
    "augment.small_until": ([0.0, 1.0], [-0.1, 1.1]),
    "augment.mixup": ([0.0, 100.0], [-0.1, 100.1]),
    "augment.cutmix": ([0.0, 100.0], [-0.1, 100.1]),
    "optim.lr": ([1e-300, 1e6], [0.0, -0.1, 1.000001e6]),
    "optim.momentum": ([0.0, 0.999], [-0.1, 1.0, 2.0]),
    "optim.weight_decay": ([0.0, 1e30], [-1e-9]),
    "optim.l1": ([0.0, 1e30], [-1e-9]),
    "optim.warmup": ([0.0, 0.999], [-0.1, 1.0]),
    "optim.clip_norm": ([0.0, 1e30], [-1e-9]),
    "optim.bias_factor": ([1e-9, 1e4], [0.0, 1.1e4]),
    "optim.head_factor": ([1e-9, 1e4], [0.0, 1.1e4]),
    "optim.whiten_until": ([1e-9, 1.0], [0.0, 1.1]),
    "train.epochs": ([0, 1, 100_000], [-1, 100_001]),
    "train.budget": ([0.0, 1e30], [-1e-9]),
    "train.patience": ([0, 1, LARGE], [-1]),
    "transfer.unfreeze_at": ([0.0], [-0.1, 1.1]),  # above 0 it needs a stage
    "transfer.stage_decay": ([1e-9, 1.0], [0.0, -0.1, 1.1]),
    "train.batch_size": ([1, LARGE], [0, -1]),
    "train.accumulate": ([1, LARGE], [0, -1]),
    "train.label_smoothing": ([0.0, 0.999], [-0.1, 1.0]),
    "train.ema": ([0.0, 0.999], [-0.1, 1.0]),
    "train.hardest": ([1e-9, 1.0], [0.0, 1.1]),
    "train.seed": ([0, 2**63 - 1], [-1, 2**63]),
    "train.checkpoint_seconds": ([0.0, 1e30], [-1e-9]),
    "hardware.threads": ([0, 4_096], [-1, 4_097]),
}
CHOICES = {
    "data.on_bad": {"stop", "skip", "read"},
    "data.geometry": {"crop", "squash", "letterbox"},
    "data.interpolation": {"bilinear", "bicubic"},
    "data.views": {"plain", "flip", "flip_shift"},
    "train.keep": {"last", "best"},
    "data.pixels": {"standardized", "unit", "raw"},
    "augment.flip": {"none", "random", "alternating"},
    "augment.policy": {"none", "randaugment", "trivialaugment"},
    "optim.name": {"sgd", "adamw", "muon"},
    "optim.schedule": {"constant", "step", "cosine", "triangular"},
    "hardware.policy": {"measured", "off"},
    "hardware.precision": {"auto", "fp32", "bf16", "fp16"},
    "hardware.layout": {"auto", "contiguous", "channels_last"},
}
FLOATS = [key for key, value in flat(Config()).items() if isinstance(value, float)]


def section_with(key: str, value: Any) -> Section:
    section, name = key.split(".")
    return SECTIONS[section](**{name: value})


def cases(index: int) -> list[tuple[str, float]]:
    return [(key, value) for key, edges in EDGES.items() for value in edges[index]]


def test_the_tables_here_hold_every_setting_that_is_bounded() -> None:
    numbers = {
        key
        for key, value in flat(Config()).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers == set(EDGES)
    choices = {
        f"{section}.{item.name}": set(item.metadata["choices"])
        for section, kind in SECTIONS.items()
        for item in fields(kind)
        if item.metadata["choices"]
    }
    assert choices == CHOICES


def test_every_setting_has_a_type_a_legal_default_and_a_help_line() -> None:
    allowed = (bool, int, float, str, tuple[float, ...])
    for kind in SECTIONS.values():
        for item in fields(kind):
            assert item.type in allowed
            assert type(item.default) is (tuple if item.type == allowed[-1] else item.type)
            replace(kind(), **{item.name: item.default})
    described = {key: (legal, text) for key, legal, text in descriptions()}
    assert list(described) == list(flat(Config()))
    assert all(text.strip() == text != "" for _, text in described.values())
    assert all(described[key][0] for key in EDGES)
    assert all(set(described[key][0].split(" | ")) == CHOICES[key] for key in CHOICES)


def test_the_sections_are_those_of_the_configuration() -> None:
    assert {item.name: item.type for item in fields(Config)} == SECTIONS


@pytest.mark.parametrize(("key", "value"), cases(0))
def test_numbers_at_the_edge_are_accepted(key: str, value: float) -> None:
    assert getattr(section_with(key, value), key.split(".")[1]) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [*cases(1), *((key, value) for key in FLOATS for value in (math.nan, math.inf, -math.inf))],
)
def test_numbers_beyond_the_edge_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is \S+, expected (at least|above) ") as refusal:
        section_with(key, value)
    assert str(value) in str(refusal.value)


@pytest.mark.parametrize("milestone", [0.0, -0.1, 1.0, 1.5, math.nan])
def test_milestones_are_shares_of_a_run(milestone: float) -> None:
    with pytest.raises(ConfigError, match=r"optim\.milestones is .* expected above 0 and below 1"):
        Optim(schedule="step", milestones=(0.5, milestone))


@pytest.mark.parametrize("key", CHOICES)
def test_other_words_than_the_choices_are_refused(key: str) -> None:
    for choice in CHOICES[key]:
        section_with(key, choice)
        with pytest.raises(ConfigError, match=rf"^{key} is '{choice}x', expected one of .*; did "):
            section_with(key, f"{choice}x")
    with pytest.raises(ConfigError, match=rf"^{key} is '', expected one of [\w, ]+$"):
        section_with(key, "")


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set optim\.momentum above 0"):
        Config(optim=Optim(nesterov=True, momentum=0.0))
    with pytest.raises(ConfigError, match=r"belongs to optim\.schedule step, not cosine"):
        Config(optim=Optim(schedule="cosine", milestones=(0.5,)))
    with pytest.raises(ConfigError, match="accumulate is 9, more than the 8 images of a batch"):
        Config(train=Train(batch_size=8, accumulate=9))
    Config(optim=Optim(nesterov=True, momentum=0.1))
    Config(optim=Optim(schedule="step", milestones=(0.5,)), train=Train(batch_size=8, accumulate=8))


@pytest.mark.parametrize("part", [Config(), *(kind() for kind in SECTIONS.values())])
def test_a_configuration_cannot_be_changed(part: Config | Section) -> None:
    name = fields(part)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(part, name, getattr(part, name))
    assert hash(part) == hash(replace(part))


def test_flat_names_every_value_in_full() -> None:
    config = Config(
        Data(size=3), Model(init="he"), Transfer(probe=True), Augment(crop=1), Optim(lr=0.5),
        Train(seed=4), Hardware(threads=2),
    )  # fmt: skip
    values: dict[str, Value] = flat(config)
    changed = {key: value for key, value in values.items() if value != flat(Config())[key]}
    assert changed == {
        "data.size": 3, "model.init": "he", "transfer.probe": True, "augment.crop": 1,
        "optim.lr": 0.5, "train.seed": 4, "hardware.threads": 2,
    }  # fmt: skip
    assert len(values) == sum(len(section) for section in asdict(config).values())
