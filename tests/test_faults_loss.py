"""A loss or gradient that is no number stops training before it changes anything that is kept."""

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from deepcnn import files
from deepcnn.data.augment import draw
from deepcnn.data.order import order
from deepcnn.errors import NonFiniteError
from faults import (
    SMALL,
    Mini,
    Settings,
    arguments_of,
    assert_whole,
    checkpoints,
    config_of,
    digest,
    last_step,
    leftovers,
    read_events,
    server,
    spoil_images,
    stop_early,
    train_here,
    write_images,
)

STEPS_PER_EPOCH, BATCH = 8, 10
Spoil = Callable[[int, Any], None]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    images = write_images(tmp_path_factory.mktemp("data") / "images")
    return SMALL | {
        "data.name": str(images),
        "train.ema": 0.9,
        "train.checkpoint_seconds": 0,
    }


@pytest.fixture(scope="module")
def whole(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of a run in which all numbers are numbers."""
    run = tmp_path_factory.mktemp("twin") / "run"
    train_here(settings, run)
    return digest(run)


def in_update(layer: torch.nn.Module) -> bool:
    """Whether an update is being made: the look before the first one needs no gradients."""
    return layer.training and torch.is_grad_enabled()


def in_training(number: int, change: Callable[[Tensor], Tensor], patch: Any) -> None:
    """Have the logits of batch `number`, from 1, pass through `change`."""
    forward, calls = Mini.forward, itertools.count(1)

    def wrapper(model: Mini, images: Tensor) -> Tensor:
        logits = forward(model, images)
        return change(logits) if in_update(model) and next(calls) == number else logits

    patch(Mini, "forward", wrapper)


def spoil_logits(value: float) -> Spoil:
    """A loss that is no number from images that are."""
    return lambda number, patch: in_training(number, lambda logits: logits * value, patch)


class SpoiledGradient(torch.autograd.Function):
    """Returns its input; its gradient is no number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


def spoil_gradient(number: int, patch: Any) -> None:
    in_training(number, SpoiledGradient.apply, patch)


SPOILS: dict[str, tuple[Spoil, str]] = {
    "images": (spoil_images, "the loss is nan"),
    "logits": (spoil_logits(float("nan")), "the loss is nan"),
    "overflow": (spoil_logits(float("inf")), "the loss is (inf|nan)"),
    "gradient": (spoil_gradient, "the gradient norm is nan"),
}


def tensors_of(place: Path) -> dict[str, Tensor]:
    contents = files.read_folder(place)
    return {
        f"{file} {name}": tensor
        for file in ("weights.safetensors", "state.safetensors")
        for name, tensor in safetensors.torch.load(contents[file]).items()
    }


def assert_all_finite(tensors: Mapping[str, Tensor]) -> None:
    names = " ".join(tensors)
    assert "running_var" in names and "average." in names and "momentum_buffer" in names
    for name, tensor in tensors.items():
        assert torch.isfinite(tensor).all(), name


def images_of_batch(settings: Settings, batch: int) -> list[int]:
    """The images of a batch, from 0, of the first epoch or a later one."""
    epoch, within = divmod(batch, STEPS_PER_EPOCH)
    seed = config_of(settings).train.seed
    return order(seed, epoch, 80)[within * BATCH : (within + 1) * BATCH].tolist()


@pytest.mark.parametrize("step", [0, 3, 7, 8, 23])
@pytest.mark.parametrize("spoiled", SPOILS)
def test_stops_before_anything_is_changed(
    spoiled: str, step: int, settings: Settings, whole: dict[str, str], tmp_path: Path
) -> None:
    run, control = tmp_path / "run", tmp_path / "control"
    spoil, reason = SPOILS[spoiled]
    with pytest.MonkeyPatch.context() as patch:
        spoil(step + 1, patch.setattr)
        with pytest.raises(NonFiniteError, match=reason) as stop:
            train_here(settings, run)
    said = str(stop.value)
    assert f"in step {step}, " in said
    assert f"training images {', '.join(map(str, images_of_batch(settings, step)[:8]))} ..." in said
    assert (str(checkpoints(run)[-1]) if step else "none yet") in said
    assert last_step(run) == step
    assert not leftovers(run)
    if step:
        stop_early(settings, control, step)
        kept, expected = tensors_of(checkpoints(run)[-1]), tensors_of(checkpoints(control)[-1])
        assert_all_finite(kept)
        assert kept.keys() == expected.keys()
        for name in kept:
            assert torch.equal(kept[name], expected[name]), name
    train_here(settings, run)
    assert digest(run) == whole


def test_batch_in_pieces_names_all_its_images(settings: Settings, tmp_path: Path) -> None:
    """The gradient is that of the whole batch."""
    settings = settings | {"train.accumulate": 3}
    with pytest.MonkeyPatch.context() as patch:
        spoil_gradient(3 * 2 + 1, patch.setattr)  # first piece of the third batch
        with pytest.raises(NonFiniteError) as stop:
            train_here(settings, tmp_path / "run")
    named = ", ".join(map(str, images_of_batch(settings, 2)[:8]))
    assert f"in step 2, on training images {named} ..." in str(stop.value)


def test_command_says_so_and_fails(settings: Settings, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.txt"
    child = server().run(arguments_of(settings, run), out, "spoil images", 6)
    assert child.code == 1
    assert "Traceback" not in child.said()
    assert child.said().splitlines()[-1].startswith("deepcnn: the loss is nan in step 5, on ")
    assert_whole(run)
    assert last_step(run) == 5


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(("network", "side"), [("mini", 12), ("lenet", 32)])
def test_enormous_rate_does_not_end_in_a_model(
    optimiser: str, network: str, side: int, settings: Settings, tmp_path: Path
) -> None:
    """Nothing is injected: the weights grow until the loss or its gradient is no number."""
    wild = {"optim.lr": 1e6, "optim.warmup": 0, "optim.schedule": "constant", "train.epochs": 10}
    wild |= {"optim.name": optimiser, "optim.nesterov": optimiser == "sgd"}
    wild |= {"model.name": network, "data.size": side}
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"Try a lower --optim\.lr"):
        train_here(settings | wild, run)
    assert not (run / "model").exists()
    assert checkpoints(run)
    for place in checkpoints(run):
        assert all(torch.isfinite(tensor).all() for tensor in tensors_of(place).values())


@pytest.mark.parametrize("often", [True, False])
def test_statistics_that_overflow_are_not_saved(
    often: bool, settings: Settings, tmp_path: Path
) -> None:
    """A variance may be infinite while the loss, of what is divided by it, is a number."""
    run, calls = tmp_path / "run", itertools.count(1)
    settings = settings | {"train.checkpoint_seconds": 0 if often else 1e6}

    def enlarge(layer: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (inputs[0] * 1e30,) if in_update(layer) and next(calls) == 12 else None

    build = Mini.__init__

    def build_and_hook(model: Mini, *arguments: int) -> None:
        build(model, *arguments)
        model.norm.register_forward_pre_hook(enlarge)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mini, "__init__", build_and_hook)
        with pytest.raises(NonFiniteError, match=r"norm\.running_var") as stop:
            train_here(settings, run)
    good = 11 if often else 8
    assert last_step(run) == good
    assert_all_finite(tensors_of(checkpoints(run)[-1]))
    assert f"step {12 if often else 16}" in str(stop.value)
    assert str(checkpoints(run)[-1]) in str(stop.value)
    assert not leftovers(run)


@pytest.mark.parametrize("accumulate", [1, 2, 8])
@pytest.mark.parametrize("more", [1, 2, 3, 9])
def test_short_last_batch(accumulate: int, more: int, tmp_path: Path) -> None:
    """Batch statistics of one image do not exist; every image is trained on all the same."""
    images = write_images(tmp_path / "images", num_train=96 + more)
    settings = SMALL | {
        "data.name": str(images),
        "data.validation": 0,
        "model.name": "compact",
        "train.batch_size": 16,
        "train.accumulate": accumulate,
        "train.epochs": 1,
    }
    run = tmp_path / "run"
    train_here(settings, run)
    epoch = next(event for event in read_events(run) if event["event"] == "epoch")
    assert epoch["step"] == (6 if more == 1 else 7)
    assert (epoch["train_accuracy"] * (96 + more)) == pytest.approx(
        round(epoch["train_accuracy"] * (96 + more))
    )


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_scaler_leaves_out_an_update_that_overflows(
    optimiser: str, settings: Settings, tmp_path: Path
) -> None:
    """In fp16 a gradient that is no number is expected now and then: no update, a lower scale."""
    run = tmp_path / "run"
    settings = settings | {"hardware.precision": "fp16", "optim.name": optimiser}
    with pytest.MonkeyPatch.context() as patch:
        spoil_gradient(5, patch.setattr)
        stop_early(settings, run, 5)
    before, after = (tensors_of(place) for place in checkpoints(run)[-2:])
    assert_all_finite(after)
    unchanged = [name for name in after if name.endswith((".weight", ".bias"))]
    unchanged = [name for name in unchanged if name.startswith("weights.safetensors ")]
    unchanged += [name for name in after if name.endswith("momentum_buffer")]
    assert {name.partition(" ")[0] for name in unchanged} == {
        "weights.safetensors", "state.safetensors",
    }  # fmt: skip
    for name in unchanged:
        assert torch.equal(before[name], after[name]), name
    scales = [
        re.search(rb'"scale": ([0-9.]+)', files.read_folder(place)["meta.json"])
        for place in checkpoints(run)[-2:]
    ]
    assert scales[0] and scales[1]
    assert float(scales[1][1]) == float(scales[0][1]) / 2


def test_augmentation_is_in_use_here(settings: Settings) -> None:
    config = config_of(settings)
    assert set(draw(config.augment, config.train.seed, 0, 4)) == {"flip", "shift"}
