"""`TrainState`, all that a run must not lose, and its way to disk and back.

A checkpoint is a folder of safetensors and JSON with a SHA-256 manifest. It appears under its
final name whole or not at all, is verified when it is read, and the newest that verifies is used.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deepcnn.errors import NonFiniteError, RunError
from deepcnn.files import Damaged, read_folder, remove_folder, replace_folder

KEPT = 2  # newest checkpoints, beside the best
SCHEMA = 1


@dataclass
class TrainState:
    """A run in progress. Position is (`epoch`, `step`): epochs concluded, updates made."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor] | None  # averaged weights, if the run keeps them
    losses: Tensor | None = None  # of each training image when last seen, if the run goes by them
    visits: Tensor | None = None  # then: indices of images in the order of the epoch under way
    filters: dict[int, Tensor] = field(default_factory=dict)  # by epoch: the first layer's weights
    pieces: int = 1  # that a batch is computed in
    epoch: int = 0
    step: int = 0
    # Of the epoch under way: summed loss, correct images, images seen.
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    moving_loss: float | None = None
    best_accuracy: float = -1.0
    best_step: int = -1
    seconds: float = 0.0  # of training so far; a clock, so no part of what must be equal
    # Within a time budget, which is a clock, too: how far the run is, from 0 to 1, and the seconds
    # of the budget that are used.
    progress: float = 0.0
    used: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)

    NUMBERS = (
        "epoch", "step", "loss_sum", "correct", "seen", "moving_loss",
        "best_accuracy", "best_step", "seconds", "progress", "used", "pieces", "events",
    )  # fmt: skip

    def final_weights(self) -> dict[str, Tensor]:
        """What the finished model consists of: averaged weights where they are kept."""
        return self.average if self.average is not None else self.model.state_dict()


def save(folder: Path, state: TrainState) -> Path:
    """Commit `state` under `folder`, then drop what is neither among the newest nor the best.

    Raises OSError where the disk fails and Damaged where it does not give back what was written.
    """
    place = folder / f"step-{state.step:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    replace_folder(place, _to_files(state))
    _prune(folder, state.best_step)
    return place


def load_newest(folder: Path, state: TrainState) -> tuple[Path | None, list[str]]:
    """Fill `state` from the newest checkpoint that verifies.

    Returns that checkpoint, or None, and for each one passed over a sentence saying why. Raises
    OSError where the disk does not answer: then nothing is known of the checkpoint there.
    """
    passed_over = []
    for place in sorted(folder.glob("step-*"), reverse=True):
        try:
            load(place, state)
        except Damaged as reason:
            passed_over.append(f"passed over {place.name}: {reason}")
            continue
        return place, passed_over
    return None, passed_over


def load(place: Path, state: TrainState) -> None:
    """Fill `state` from one checkpoint. Raises Damaged where it is not what was committed."""
    _from_files(read_folder(place), state)


def read_filters(folder: Path) -> dict[int, Tensor]:
    """The first layer's weights after each epoch of which they were kept, from the newest
    checkpoint that verifies; nothing if there is none.
    """
    for place in sorted(folder.glob("step-*"), reverse=True):
        try:
            return _filters(safetensors.torch.load(read_folder(place)["state.safetensors"]))
        except (OSError, Damaged):
            continue
    return {}


def discard_after(folder: Path, step: int) -> None:
    """Remove checkpoints newer than `step`: damaged ones, which the run will write again."""
    for place in folder.glob("step-*"):
        if int(place.name.removeprefix("step-")) > step:
            remove_folder(place)


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors. Raises NonFiniteError if one is not finite: worse than none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise NonFiniteError(f"{name} holds values that are not finite; nothing was written")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def _is_finite(tensor: Tensor) -> bool:
    # A finite sum proves it in a fifteenth of the time; only another sum needs the closer look.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _to_files(state: TrainState) -> dict[str, bytes]:
    optimizer, numbers = _split(state.optimizer.state_dict()["state"])
    tensors = {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    of_images = {"losses": state.losses, "visits": state.visits}
    tensors |= {name: tensor for name, tensor in of_images.items() if tensor is not None}
    tensors |= {f"filters.{epoch}": weight for epoch, weight in state.filters.items()}
    meta = {
        "schema": SCHEMA,
        **{name: getattr(state, name) for name in TrainState.NUMBERS},
        "optimizer": numbers,
        "scaler": state.scaler.state_dict(),
    }
    return {
        "weights.safetensors": pack(state.model.state_dict()),
        "state.safetensors": pack(tensors),
        "meta.json": json.dumps(meta, indent=1).encode(),
    }


def _from_files(files: Mapping[str, bytes], state: TrainState) -> None:
    meta = json.loads(files["meta.json"])
    if meta["schema"] != SCHEMA:
        raise RunError(
            f"a checkpoint has schema {meta['schema']}, this version reads {SCHEMA}: go on with "
            "the version that began the run, or give another --out"
        )
    tensors = safetensors.torch.load(files["state.safetensors"])
    state.model.load_state_dict(safetensors.torch.load(files["weights.safetensors"]))
    groups = state.optimizer.state_dict()["param_groups"]
    per_parameter = _join(_with_prefix(tensors, "optimizer."), meta["optimizer"])
    state.optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    _arrange_like_parameters(state.optimizer)
    if meta["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(meta["scaler"])
    if state.average is not None:
        # A run that begins to average half-way begins with the weights of that moment.
        saved = _with_prefix(tensors, "average.") or state.model.state_dict()
        for name, tensor in saved.items():
            state.average[name].copy_(tensor)
    if state.losses is not None:
        state.losses, state.visits = tensors.get("losses", state.losses), tensors.get("visits")
    state.filters = _filters(tensors)
    for name in TrainState.NUMBERS:
        setattr(state, name, meta.get(name, getattr(state, name)))  # earlier versions had fewer


def _filters(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    found = {int(epoch): weight for epoch, weight in _with_prefix(tensors, "filters.").items()}
    return dict(sorted(found.items()))


def _arrange_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Put state into the memory layout of its parameter, which files do not keep and fused updates
    take for granted.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _split(
    per_parameter: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser state as (tensors, numbers), each under `parameter index.name`."""
    entries = {
        f"{index}.{name}": value
        for index, values in per_parameter.items()
        for name, value in values.items()
    }
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries.items() if key not in tensors}


def _join(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    per_parameter: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, _, name = key.partition(".")
        per_parameter.setdefault(int(index), {})[name] = value
    return per_parameter


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _prune(folder: Path, best_step: int) -> None:
    newest = sorted(folder.glob("step-*"), reverse=True)
    for place in newest[KEPT:]:
        if place.name != f"step-{best_step:09d}":
            remove_folder(place)
