"""The finished model: weights, classes, preprocessing and results in one folder that says all that
is needed to use it, and of which nothing is executed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from deepcnn import models
from deepcnn.checkpoint import pack
from deepcnn.data.preprocess import Preprocess
from deepcnn.errors import RunError
from deepcnn.files import Damaged, commit_folder, read_folder

SCHEMA = 1


@dataclass(frozen=True)
class Artefact:
    """A model that can be used: `meta` holds results, recipe and data fingerprint besides."""

    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    meta: dict[str, Any]

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities: see `fit_temperature`."""
        return self.meta.get("temperature") or 1.0


def save(
    folder: Path,
    name: str,
    weights: Mapping[str, Tensor],
    preprocess: Preprocess,
    classes: tuple[str, ...],
    facts: Mapping[str, Any],
) -> None:
    """Commit the finished model called `name` to `folder`, which must not exist."""
    meta = {
        "schema": SCHEMA,
        "model": name,
        "classes": classes,
        "preprocess": asdict(preprocess),
        **facts,
    }
    commit_folder(
        folder,
        {
            "weights.safetensors": pack(weights),
            "meta.json": json.dumps(meta, indent=1, ensure_ascii=False).encode(
                errors="backslashreplace"
            ),
        },
    )


def load(run: Path) -> Artefact:
    """Read the model of a run folder, or a model folder itself; RunError if there is none."""
    folder = run / "model" if (run / "model").is_dir() else run
    if not run.exists():
        raise RunError(f"{run} does not exist; expected a run folder made by `deepcnn train`")
    if not (folder / "meta.json").exists():
        raise RunError(
            f"{run} holds no finished model; expected {run / 'model'}. "
            f"Finish the run with the command that began it, `deepcnn train ... --out {run}`"
        )
    try:
        files = read_folder(folder)
    except Damaged as reason:
        raise RunError(f"{folder} is damaged: {reason}. Train again, or restore a copy") from reason
    try:
        return _build(files, folder)
    except (LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = str(error).partition("\n")[0]
        raise RunError(f"{folder} is no model that this version can use ({first_line})") from error


def _build(files: Mapping[str, bytes], folder: Path) -> Artefact:
    meta = json.loads(files["meta.json"])
    if meta["schema"] != SCHEMA:
        raise RunError(f"{folder} has schema {meta['schema']}, this version reads {SCHEMA}")
    facts = meta["preprocess"]
    preprocess = Preprocess(
        **facts | {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])},
    )
    model = models.build(
        meta["model"], len(meta["classes"]), preprocess.channels, preprocess.input_size
    )
    model.load_state_dict(safetensors.torch.load(files["weights.safetensors"]))
    return Artefact(model, preprocess, tuple(meta["classes"]), meta)
