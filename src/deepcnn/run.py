"""`Run`: one process at work on one run folder, from `begin` to the last checkpoint."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn import checkpoint, models, runlog
from deepcnn.bottleneck import Trial
from deepcnn.budget import Pace, advance
from deepcnn.checkpoint import TrainState
from deepcnn.config import Config
from deepcnn.data.colour import Components, pixel_components
from deepcnn.data.hardest import hardest, num_visited
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, source
from deepcnn.data.order import batch_slices, epoch_order
from deepcnn.data.preprocess import small_side
from deepcnn.data.splits import Splits, sample
from deepcnn.device import Policy
from deepcnn.errors import NonFiniteError
from deepcnn.files import Damaged
from deepcnn.forecast.foreseen import Foreseen
from deepcnn.models import transfer
from deepcnn.models.weights import ends
from deepcnn.models.whitening import whitening_layer
from deepcnn.phases import Stopwatch, delay
from deepcnn.progress import Display

# Of the first layer, for pictures of how it came about: enough to see it, and small beside the
# weights of any network.
MOST_EPOCHS, MOST_FILTERS = 32, 96


@dataclass
class Run:
    """What the loop works with: the settings, the images, the state, and where it is written."""

    folder: Path
    config: Config
    policy: Policy
    splits: Splits
    state: TrainState
    display: Display
    log: runlog.EventLog
    pace: Pace | None = None  # within a time budget
    foreseen: Foreseen = field(default_factory=Foreseen)
    warned: set[str] = field(default_factory=set)
    saved_at: float = field(default_factory=time.perf_counter)
    watch: Stopwatch = field(default_factory=Stopwatch)
    delay_before: float = field(default_factory=delay)
    fastest: float = math.inf  # seconds of the fastest update of a whole batch
    trial: Trial | None = None
    _components: Components | None = None
    _frozen: int = -1
    _is_small: bool = False

    def slices(self, epoch: int) -> list[slice]:
        """The batches of an epoch, cut from what it visits."""
        train = self.config.train
        number = num_visited(len(self.splits.train), train.hardest, epoch)
        return batch_slices(number, train.batch_size, train.drop_last)

    def updates(self, epochs: int) -> int:
        """How many updates are made in the first epochs."""
        first, later = (len(self.slices(epoch)) for epoch in (0, 1))
        return first + (epochs - 1) * later if epochs else 0

    def epochs_in(self, updates: int) -> float:
        """How many epochs so many updates are, the last perhaps in part."""
        first, later = (len(self.slices(epoch)) for epoch in (0, 1))
        return updates / first if updates < first else 1 + (updates - first) / later

    def total(self) -> int:
        """How many updates the run has, within a budget as planned last."""
        return self.pace.total if self.pace else self.updates(self.config.train.epochs)

    def num_epochs(self) -> int:
        """How many epochs the run has; within a budget the last may be cut short."""
        return math.ceil(self.epochs_in(self.total())) if self.pace else self.config.train.epochs

    def is_over(self) -> bool:
        """Whether the last update within the budget has been made."""
        return self.pace is not None and self.state.progress >= 1

    def is_under_way(self) -> bool:
        """Whether an epoch is left; within a budget: time, or an epoch that is not concluded."""
        if self.pace:
            return not self.is_over() or self.state.seen > 0
        return self.state.epoch < self.config.train.epochs

    def advance(self, total: int) -> tuple[float, float]:
        """Progress (0 to 1) in the middle of the next update and after it, of `total` in all."""
        step = self.state.step
        if self.pace:
            return advance(self.state.progress, total - step)
        return (step + 0.5) / total, (step + 1) / total

    def spent(self, updates: int) -> dict[str, Any]:
        """What became of the budget in so many updates; nothing without one."""
        if not self.pace:
            return {}
        epochs, seconds = self.epochs_in(updates), self.pace.budget
        facts = {"seconds": seconds, "used": self.pace.used(), "updates": updates, "epochs": epochs}
        return {"budget": facts}

    def visits(self) -> Tensor:
        """The images of the epoch under way, in order: indices in the training set, int64."""
        state, train, seed = self.state, self.splits.train, self.config.train.seed
        visits = epoch_order(train, seed, state.epoch)
        if state.losses is None:
            return visits
        if state.visits is None:
            number = num_visited(len(train), self.config.train.hardest, state.epoch)
            state.visits = visits[hardest(state.losses, number, seed, state.epoch)[visits]]
        return state.visits

    def source(self, images: ImageSet) -> Source:
        """An image set on the device of the run."""
        return source(images, self.splits.preprocess, torch.device(self.policy.device), self.watch)

    def reach(self, progress: float) -> None:
        """Do what is due when `progress` (0 to 1) of the run is done: train the stages whose turn
        it is, the bias of a whitening layer as long as it should, and on small images at first.
        """
        was_small, self._is_small = self._is_small, progress < self.config.augment.small_until
        if was_small != self._is_small:
            self.display.say(f"from now on training images have {self.side()}x{self.side()} pixels")
        if self.config.transfer.freeze:
            self._thaw_stages(progress)
        until = self.config.optim.whiten_until
        if until < 1:
            layer = whitening_layer(self.state.model)
            assert layer is not None and layer.bias is not None
            layer.bias.requires_grad_(self._frozen < 1 and progress < until)

    def side(self) -> int:
        """Of the images that an update is made from: their height and width in pixels."""
        side = self.splits.preprocess.input_size
        return small_side(side) if self._is_small else side

    def _thaw_stages(self, progress: float) -> None:
        settings = self.config.transfer
        frozen = transfer.place(self.state.model, settings.freeze)
        if settings.unfreeze_at:
            frozen = max(0, frozen - int(frozen * progress / settings.unfreeze_at))
        if frozen == self._frozen:
            return
        transfer.freeze(self.state.model, frozen)
        if self._frozen < 0:
            self.display.say(self.plan())
        else:
            stage = transfer.stages(self.state.model)[frozen][0]
            self.display.say(f"from now on {stage} trains, and all that follow it")
        self._frozen = frozen

    def plan(self) -> str:
        """The table of what trains, with the highest learning rate of each stage."""
        rates = [
            {"params": group["params"], "lr": self.config.optim.lr * group["factor"]}
            for group in self.state.optimizer.param_groups
        ]
        return transfer.plan_in_words(self.state.model, rates)

    def class_weights(self, logits: Tensor) -> Tensor:
        """What an image of each class counts in the loss so that all classes count alike: one for
        each of `logits` N K, of which those that no image belongs to come last.
        """
        counts = self.splits.train.class_counts().clip(1)  # a class may have no image
        weights = torch.ones(logits.shape[1])
        weights[: len(counts)] = torch.from_numpy(counts.sum() / (len(counts) * counts))
        return weights.to(logits.device)

    def components(self) -> Components | None:
        """Principal components of the colours of the training images, if any noise goes by them."""
        if not self.config.augment.pca_noise:
            return None
        if self._components is None:
            squares = sample(self.splits.train, self.splits.preprocess)
            self._components = pixel_components(torch.from_numpy(squares))
        return self._components

    def final_model(self) -> nn.Module:
        """A copy of the model with its final weights: the one in training stays as it is."""
        classes, preprocess = len(self.splits.train.classes), self.splits.preprocess
        name, side = self.config.model.name, preprocess.input_size
        model = models.build(name, classes, preprocess.channels, side)
        model.load_state_dict(self.state.final_weights())
        return self.policy.place(model)

    def keep_filters(self) -> None:
        """Keep the weights of the first convolution as they are now, between two epochs."""
        state, epochs = self.state, self.num_epochs()
        key = f"{ends(state.model)[0]}.weight"
        every = max(1, math.ceil(epochs / MOST_EPOCHS))
        is_due = state.epoch % every == 0 or state.epoch == epochs
        weights = state.final_weights()
        if is_due and key in weights:
            state.filters[state.epoch] = weights[key][:MOST_FILTERS].detach().cpu().clone()

    def saving(self) -> float:
        """Seconds of all checkpoints so far."""
        return self.watch.seconds["checkpointing"]

    def record(self, **event: Any) -> None:
        """Add an event to the record; a failing disk is warned of, training goes on."""
        if self.pace:
            event |= {"progress": self.state.progress, "used": self.pace.used()}
        self._warn_of(self.log.append(event))

    def catch_up(self) -> None:
        """Write what the disk refused so far to the record."""
        self._warn_of(self.log.catch_up())

    def _warn_of(self, error: OSError | None) -> None:
        if error:
            self.warn(f"cannot write {self.log.path}: {error.strerror}")

    def save(self) -> None:
        """Commit a checkpoint; if the disk fails, the ones before stay and training goes on."""
        self.saved_at = time.perf_counter()
        self.state.used = self.pace.used() if self.pace else 0.0
        try:
            with self.watch.during("checkpointing"):
                checkpoint.save(self.folder / "checkpoints", self.state)
        except (OSError, Damaged) as error:
            self.warn(f"a checkpoint could not be written: {error}")
        except NonFiniteError as error:
            raise NonFiniteError(f"after step {self.state.step} {error}. {self.remedy()}") from None

    def remedy(self) -> str:
        """What to do about numbers that are not finite."""
        saved = sorted((self.folder / "checkpoints").glob("step-*"))
        return (
            f"Last good checkpoint: {saved[-1] if saved else 'none yet'}. Try a lower --optim.lr "
            f"(it is {self.config.optim.lr}), --optim.clip_norm 1 or --precision fp32"
        )

    def warn(self, message: str) -> None:
        """Say, once, that something went wrong that does not stop training."""
        if message not in self.warned:
            self.warned.add(message)
            self.display.say(f"warning: {message}; training goes on")
