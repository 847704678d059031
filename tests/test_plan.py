"""What is foretold of whole runs: whether they fit, in how many pieces, in what room."""

import json
import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.forecast import process, start
from deepcnn.forecast.memory import Block, Timeline
from deepcnn.forecast.run import Memory, memory_of
from deepcnn.forecast.storages import Event
from deepcnn.preflight import load
from deepcnn.rehearsal import rehearse
from deepcnn.sizes import in_bytes, parse_size
from faults import (
    SMALL,
    Settings,
    arguments_of,
    call,
    config_of,
    options_of,
    outcome,
    prepared,
    train_here,
    write_images,
)

SETTINGS: Settings = SMALL | {"train.epochs": 1, "train.batch_size": 64, "data.validation": 16}
EVENTS = tuple(Event(phase, "", "") for phase in ("forward", "backward", "update"))
UNITS = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_amounts_are_read(number: int, unit: str, space: str) -> None:
    assert parse_size(f"{number}{space}{unit}") == number * UNITS[unit]
    assert parse_size(f"{number}{space}{unit.lower()}") == number * UNITS[unit]


@given(st.floats(1e3, 9e14))
def test_amounts_are_printed_to_three_digits(size: float) -> None:
    assert parse_size(in_bytes(size)) == pytest.approx(size, rel=0.006)


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "1e9", "1,5GB", "8 Gigs", "٣GB", "1GB 2"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected an amount such as 8GiB"):
        parse_size(text)


def made_up(fixed: int, per_image: int, weights: int) -> Memory:
    """A run of known sizes, for which all can be computed by hand."""
    step = Timeline(
        EVENTS,
        (
            Block("parameters", 0, 3, weights),
            Block("gradients", 1, 3, weights),
            Block("activations", 0, 2, fixed, per_image),
        ),
    )
    still = Timeline(EVENTS[:1], (Block("parameters", 0, 1, weights),))
    return Memory(
        step=step,
        evaluation=still,
        other=10**6,
        free=0,
        so_far=0,
        constant=weights,
        to_come=0,
        at_once=1,
        is_device=True,  # tensors are all there is
    )


@given(
    st.integers(0, 10**4), st.integers(1, 10**4), st.integers(1, 10**5), st.integers(10**6, 10**7)
)
def test_the_largest_batch_is_the_last_that_fits(
    fixed: int, per_image: int, weights: int, limit: int
) -> None:
    memory = made_up(fixed, per_image, weights)
    found = memory.largest_batch(limit, most=200)
    fitting = [n for n in range(2, 201) if 10**6 + weights + fixed + n * per_image <= limit]
    fitting = [n for n in fitting if 10**6 + 2 * weights <= limit]
    assert found == max(fitting, default=0)


@given(st.integers(1, 10**4), st.integers(1, 10**4), st.integers(10**6, 2 * 10**6))
def test_the_fewest_pieces_are_the_first_that_fit(per_image: int, weights: int, limit: int) -> None:
    memory, batch = made_up(0, per_image, weights), 64
    found = memory.fewest_pieces(batch, limit)
    # From the second piece on the sum of the gradients is there all the time, and in the backward
    # pass those of a piece beside it.
    sizes = {1: 10**6 + weights + batch * per_image}
    for pieces in range(2, batch // 2 + 1):
        sizes[pieces] = 10**6 + 2 * weights + -(-batch // pieces) * per_image
    fitting = [pieces for pieces, size in sizes.items() if size <= limit]
    assert found == min(fitting, default=None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture
def alone() -> Iterator[None]:
    """Count what the run takes only, not what this process has from other tests."""

    def counted(run: Any) -> Memory:
        return replace(memory_of(run), other=0, free=0, so_far=0)

    with (
        mock.patch.object(start, "memory_of", counted),
        mock.patch.object(process, "resident", lambda: 0),
    ):
        yield


def sizes_in_pieces(settings: Settings) -> dict[int, int]:
    """What the run takes without the process, by the number of pieces."""
    config = config_of(settings)
    with prepared():
        run = rehearse(config, load(config, lambda _: None), Policy("cpu", "fp32", "contiguous", 1))
        memory = replace(memory_of(run), other=0, free=0, so_far=0)
        return {pieces: memory.forecast(64, pieces).size for pieces in (1, 2, 3, 4, 8)}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("pieces", [2, 4])
def test_a_limit_divides_batches_before_training(
    pieces: int, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"data.name": str(images)}
    sizes = sizes_in_pieces(settings)
    assert sizes[1] > sizes[2] > sizes[3] > sizes[4]
    limit = {"hardware.memory": f"{sizes[pieces]}B"}
    train_here(settings | limit, tmp_path / "limited")
    train_here(settings | {"train.accumulate": pieces}, tmp_path / "begun so")
    limited, begun_so = (outcome(tmp_path / name) for name in ("limited", "begun so"))
    assert limited["model weights"] == begun_so["model weights"]
    environment = json.loads((tmp_path / "limited" / "environment.json").read_bytes())
    assert environment["pieces"] == pieces
    assert f"batches computed in {pieces} pieces" in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_a_limit_that_no_piece_fits_is_refused(images: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.name": str(images), "hardware.memory": "100kB"}
    with pytest.raises(ConfigError, match="with two images of a batch at once: raise it, lower "):
        train_here(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_says_all_and_writes_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS | {"data.name": str(images)}
    assert call("plan", *options_of(settings), "--json") == 0
    assert not list(tmp_path.iterdir())
    plan = json.loads(capsys.readouterr().out)
    assert plan["data"]["images"] == {"train": 80, "validation": 16, "test": 24}
    assert plan["updates"] == 2
    assert plan["pieces"] == 1
    memory, seconds, disk = plan["memory"], plan["seconds"], plan["disk"]
    assert sum(memory["parts"].values()) == memory["peak"] <= memory["limit"]
    assert memory["largest_batch"] == 80
    assert 0 < seconds["update"] < seconds["epoch"] < seconds["total"]
    assert plan["bottleneck"]["sentence"].startswith("limited by ")

    assert call(*arguments_of(settings, tmp_path / "run")) == 0
    found = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").rglob("*"))
    assert 0 < found <= 2 * disk["checkpoints"] + 100_000  # small weights, and events beside them
    capsys.readouterr()
    assert call("plan", tmp_path / "run") == 0  # a run as it was begun
    said = capsys.readouterr().out
    assert "network  mini: " in said
    assert "speed    limited by " in said


def test_a_plan_of_what_does_not_fit_says_so(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))
    settings = SETTINGS | {"data.name": str(images)}
    with mock.patch.object(process, "resident", lambda: 0):  # or it would be refused before
        assert call("plan", *options_of(settings), "--memory", "50MB") == 1
    said = capsys.readouterr().out
    assert "not even two images at once fit" in said
    assert "time" not in said  # nothing was computed for it


def test_memory_that_the_system_tells_of_is_that_of_this_process() -> None:
    before = process.resident()
    with mmap.mmap(-1, 64 * 2**20) as held:  # pages of its own, whatever the heap has free
        held.write(b"x" * len(held))
        grown = process.resident() - before
        assert 0.9 * len(held) <= grown <= 2.5 * len(held)
    assert process.limit("cpu") > process.resident()  # type: ignore[operator]


def test_a_control_group_limits_memory(tmp_path: Path) -> None:
    for name, text in {
        "max": "1000\n",
        "current": "700\n",
        "stat": "anon 1\ninactive_file 50\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    with mock.patch.object(process, "CGROUP", tmp_path):
        assert process.limit("cpu") == process.resident() + 350
        (tmp_path / "memory.max").write_text("max\n")
        assert process.limit("cpu") > process.resident() + 350  # type: ignore[operator]
