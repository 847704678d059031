"""`Record`: what a run folder tells of its run. Files are read, none is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn import artefact, models, predictions, runlog
from deepcnn.artefact import Artefact
from deepcnn.checkpoint import read_filters
from deepcnn.config import Config
from deepcnn.curves import Events
from deepcnn.data import catalog
from deepcnn.data.images import ImageSet
from deepcnn.data.splits import load_splits
from deepcnn.errors import DeepcnnError, Interrupted, RunError
from deepcnn.models.weights import ends
from deepcnn.predictions import Predictions
from deepcnn.settings import from_dict


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it; `finished` is None, and there are no `answers`, before its end.

    `answers` are by split. A run of an earlier version may lack them, and facts about its data.
    """

    folder: Path
    config: Config
    environment: dict[str, Any]
    events: Events
    finished: Artefact | None
    answers: dict[str, Predictions]

    @property
    def name(self) -> str:
        """The run, as titles call it."""
        return self.folder.resolve().name

    @property
    def epochs(self) -> Events:
        """What was measured after each epoch."""
        return [event for event in self.events if event["event"] == "epoch"]

    @property
    def data(self) -> dict[str, Any]:
        """What was written down of the images; empty in a run of an earlier version."""
        return dict(self.environment.get("data", {}))

    def network(self) -> nn.Module | None:
        """The network, before its end without any numbers, on the meta device; None where its
        shape is unknown.
        """
        if self.finished:
            return self.finished.model
        if not self.input:
            return None
        channels, side, _ = self.input
        with torch.device("meta"):
            return models.build(self.config.model.name, len(self.classes), channels, side)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where they are unknown."""
        return self.finished.classes if self.finished else tuple(self.data.get("classes", ()))

    @property
    def input(self) -> tuple[int, ...]:
        """Channels, height and width of what the network gets; nothing where that is unknown."""
        if not self.finished:
            return tuple(self.data.get("input", ()))
        side = self.finished.preprocess.input_size
        return self.finished.preprocess.channels, side, side

    def filters(self) -> Tensor | None:
        """Weights N C H W of the first convolution, of the finished model or the newest that are
        kept; None where there are none, or where it sees no grey or coloured pictures.
        """
        network = self.network()
        name = ends(network)[0] if network else ""
        if self.finished:
            weight = self.finished.model.state_dict().get(f"{name}.weight")
        else:
            weight = next(reversed(self.kept_filters().values()), None)
        return weight if weight is not None and weight.shape[1] in (1, 3) else None

    def kept_filters(self) -> dict[int, Tensor]:
        """Those of them that the checkpoints keep, by epoch."""
        return read_filters(self.folder / "checkpoints")


def read_record(run: Path) -> Record:
    """Read a run folder. Raises RunError where there is no run, or what is there is damaged or of
    another schema.
    """
    if not run.exists():
        raise RunError(f"{run} does not exist; expected a run folder made by `deepcnn train`")
    finished = artefact.load(run) if (run / "model").exists() else None
    if not runlog.is_begun(run):
        raise RunError(f"{run} holds no run; expected a folder made by `deepcnn train --out {run}`")
    answers = predictions.kept(run) if finished and (run / predictions.FILE).exists() else {}
    config = runlog.recorded_config(run)
    if finished:
        config = from_dict(finished.meta["config"], str(run))
    environment, events = runlog.recorded_environment(run), runlog.recorded_events(run)
    return Record(run, config, environment, events, finished, answers)


def test_images(record: Record) -> ImageSet | str:
    """The images that a finished run was tested on, or why they cannot be shown."""
    data, said = record.config.data, record.answers.get("test")
    if not said:
        return "the run has kept no answers to its test images"
    try:
        if catalog.is_pictures(data.name):
            images = load_splits(data, record.config.train.seed).test
        else:
            images = catalog.load(data.name, "test", data.root, download=False)
    except Interrupted:
        raise
    except (DeepcnnError, OSError) as error:
        return f"the test images cannot be read: {error}"
    if images.fingerprint != said.images:
        return f"{images.name} holds other images than those that the run was tested on"
    return images
