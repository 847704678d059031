"""Where memory runs out, batches are computed in smaller pieces, and nothing is lost."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from deepcnn import train
from deepcnn.errors import DeepcnnError
from faults import SMALL, Settings, digest, outcome, read_events, train_here, write_images

SETTINGS: Settings = SMALL | {"train.epochs": 2, "train.batch_size": 16}


def weights(run: Path) -> str:
    return outcome(run)["model weights"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@contextmanager
def no_memory(*, calls: tuple[int, ...], backward: bool = False) -> Iterator[None]:
    """Let these calls, from 0, of the last layer or of the backward pass fail like an allocator."""
    owner, name = (torch.Tensor, "backward") if backward else (torch.nn.Linear, "forward")
    original, number = getattr(owner, name), itertools.count()

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        in_training = backward or torch.is_grad_enabled()
        if in_training and next(number) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, *args, **kwargs)

    with mock.patch.object(owner, name, wrapper):
        yield


@contextmanager
def pieces_from(step: int, number: int) -> Iterator[None]:
    """Compute batches in so many pieces from an update on, as if that had been decided."""
    make_updates = train.make_updates

    def in_two_parts(run: Any, source: Any, total: int) -> None:
        if run.state.pieces < number:
            slices = run.slices
            with mock.patch.object(run, "slices", lambda epoch: slices(epoch)[:step]):
                make_updates(run, source, total)
            run.state.pieces = number
        make_updates(run, source, total)

    with mock.patch.object(train, "make_updates", in_two_parts):
        yield


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("backward", [False, True])
def test_a_run_whose_memory_fails_at_once_ends_as_one_begun_in_pieces(
    optimizer: str, backward: bool, images: Path, tmp_path: Path
) -> None:
    settings = SETTINGS | {"data.name": str(images), "optim.name": optimizer, "train.ema": 0.9}
    train_here(settings | {"train.accumulate": 2}, tmp_path / "begun so")
    with no_memory(calls=(0,), backward=backward):
        train_here(settings, tmp_path / "found out")
    assert weights(tmp_path / "found out") == weights(tmp_path / "begun so")
    told = [event for event in read_events(tmp_path / "found out") if event["event"] == "pieces"]
    assert told == [{"event": "pieces", "step": 0, "pieces": 2}]


@pytest.mark.parametrize("calls", [(0, 1), (0, 2), (0, 3)])
def test_memory_that_fails_again_doubles_again(
    calls: tuple[int, ...], images: Path, tmp_path: Path
) -> None:
    """Also in a later piece, when statistics have moved and gradients are there already."""
    settings = SETTINGS | {"data.name": str(images), "train.hardest": 0.5}
    train_here(settings | {"train.accumulate": 4}, tmp_path / "begun so")
    with no_memory(calls=calls):
        train_here(settings, tmp_path / "found out")
    if calls != (0, 3):  # there the first update was made, in two pieces
        assert weights(tmp_path / "found out") == weights(tmp_path / "begun so")
    told = [event for event in read_events(tmp_path / "found out") if event["event"] == "pieces"]
    assert [event["pieces"] for event in told] == [2, 4]


def test_memory_that_fails_half_way_spoils_no_update(images: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.name": str(images)}
    with pieces_from(step=3, number=2):
        train_here(settings, tmp_path / "decided")
    with no_memory(calls=(3,)):
        train_here(settings, tmp_path / "found out")
    assert weights(tmp_path / "found out") == weights(tmp_path / "decided")
    train_here(settings, tmp_path / "whole")
    assert weights(tmp_path / "found out") != weights(tmp_path / "whole")  # batch norm saw to it


def test_a_run_killed_after_that_goes_on_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.name": str(images)}
    with no_memory(calls=(3,)):
        train_here(settings, tmp_path / "twin")

    account: Callable[..., None] = train.account
    made = itertools.count(1)

    def stop(*arguments: Any) -> None:
        account(*arguments)
        if next(made) == 5:
            raise KeyboardInterrupt

    stopping = mock.patch.object(train, "account", stop)
    with no_memory(calls=(3,)), stopping, pytest.raises(KeyboardInterrupt):
        train_here(settings, tmp_path / "killed")
    train_here(settings, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "twin")


def test_pieces_that_cannot_be_smaller_are_the_end_of_it(images: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.name": str(images)}
    with no_memory(calls=tuple(range(99))), pytest.raises(DeepcnnError, match="not enough memory"):
        train_here(settings, tmp_path / "run")


def test_other_errors_are_not_taken_for_it(images: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"data.name": str(images)}

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    failing = mock.patch.object(torch.Tensor, "backward", fail)
    with failing, pytest.raises(RuntimeError, match="shapes"):
        train_here(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_batch_norm_is_told_of(images: Path, tmp_path: Path, capsys: Any) -> None:
    with no_memory(calls=(0,)):
        train_here(SETTINGS | {"data.name": str(images)}, tmp_path / "run")
    told = capsys.readouterr().err
    assert "update 1, of which nothing was made" in told
    assert "batch norm sees 8 images at once, not 16" in told
