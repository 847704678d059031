"""A few images learnt by heart: what text 003 advises where a model does not converge."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from deepcnn import interrupt, preflight
from deepcnn.begin import choice_for
from deepcnn.checked import Value
from deepcnn.config import Augment, Config
from deepcnn.data.loader import Batch, Source
from deepcnn.data.order import order
from deepcnn.data.splits import Splits
from deepcnn.device import Policy
from deepcnn.errors import ConfigError, NonFiniteError
from deepcnn.evaluate import predictions
from deepcnn.metrics import num_correct
from deepcnn.objective import forward
from deepcnn.progress import Display, reported
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from deepcnn.settings import flat
from deepcnn.train import make_update

NUMBER = 50  # images: text 003
UPDATES = 400  # enough for every network of `models`, most need a tenth: tests/test_museum.py
BETWEEN = 10  # updates from one look at what is known to the next
# AdamW at one of these teaches fifty images to every network of `models`: tests/test_museum.py.
# The lower one comes before the higher: where 0.001 is too high, ten times as much is too.
RATES = (1e-3, 1e-4, 1e-2)
# Nothing that keeps a network from knowing images by heart. Dropout stays, it is part of the
# network; what is known is measured without it.
PLAIN: dict[str, dict[str, Any]] = {
    "train": {"accumulate": 1, "hardest": 1.0, "drop_last": False, "label_smoothing": 0.0,
              "ema": 0.0, "class_weights": False, "keep": "last", "patience": 0},
    "optim": {"weight_decay": 0.0, "l1": 0.0, "schedule": "constant", "warmup": 0.0,
              "milestones": ()},
    "data": {"validation": 0.0},
    "transfer": {"probe": False},
}  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """How many of `number` images are known after some updates of a learner (its settings): in
    evaluation and, `while_training`, with the statistics of the batch and without dropout.
    """

    learner: Config
    number: int
    known: int
    while_training: int
    updates: int
    trouble: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all are known."""
        return self.known == self.number

    def as_dict(self) -> dict[str, str | float]:
        """The same as JSON can hold it."""
        about: dict[str, str | float] = {
            "rule": self.learner.optim.name,
            "lr": self.learner.optim.lr,
        }
        about |= {"known": self.known, "while_training": self.while_training}
        return about | {"updates": self.updates, "trouble": self.trouble}

    def in_words(self) -> str:
        """What was tried, and what came of it."""
        optim = self.learner.optim
        end = f"; {self.trouble}" if self.trouble else ""
        return (
            f"{optim.name} at {optim.lr:g}: {self.known} of {self.number} images known after "
            f"{self.updates} updates{end}"
        )


def plain(config: Config, number: int) -> Config:
    """The settings to learn so many images by heart in one batch, without regularisation.

    Raises ConfigError for less than one image.
    """
    if number < 1:
        raise ConfigError(f"{number} images cannot be learnt by heart: give at least 1")
    changed = {name: replace(getattr(config, name), **more) for name, more in PLAIN.items()}
    config = replace(config, augment=Augment(), **changed)
    return replace(config, train=replace(config.train, batch_size=number, epochs=1))


def safe_learners(config: Config) -> list[Config]:
    """The same with AdamW, at rates of which one is right for any network."""
    rule = replace(config.optim, name="adamw", bias_factor=1.0, head_factor=1.0, nesterov=False)
    return [replace(config, optim=replace(rule, lr=rate)) for rate in RATES]


def draw(splits: Splits, number: int, seed: int) -> Splits:
    """That many of the training images, and no others to train with; ConfigError if there are not
    as many.
    """
    images = splits.train
    if number > len(images):
        raise ConfigError(
            f"{number} images cannot be learnt by heart: there are only {len(images):,} "
            f"training images in {images.name}"
        )
    few = images.subset(order(seed, 0, len(images))[:number].numpy(), images.name)
    return replace(splits, train=few, validation=None)


def learn(run: Run) -> Memory:
    """Let a run learn all its training images in one batch, until it knows them."""
    images, config = run.source(run.splits.train), run.config
    indices = torch.arange(len(images))
    batch = images.batch(indices)
    run.reach(0)
    what = f"learning {len(images)} images by heart with {config.optim.name} at {config.optim.lr:g}"
    known, made, trouble = 0, 0, ""
    try:
        for made in reported(range(1, UPDATES + 1), UPDATES, what):
            interrupt.check()
            make_update(run, [batch], indices, config.optim.lr)
            run.state.step = made
            is_due = made % BETWEEN == 0 or made == UPDATES
            known = _known(run, images) if is_due else known
            if known == len(images):
                break
    except NonFiniteError as error:
        trouble = str(error).partition(",")[0]
    return Memory(config, len(images), known, _known_while_training(run, batch), made, trouble)


def learn_by_heart(config: Config, number: int, cache: Path) -> Iterator[Memory]:
    """Learn that many training images of a run with its own rule and rate, and if they are not to
    be learnt so, with rates that are right for most networks. Nothing is written.
    """
    splits = draw(preflight.load(config), number, config.train.seed)
    own = plain(config, number)
    policy = choice_for(own, splits, cache, Display(0)).policy
    policy.apply()
    yield from attempts([own, *safe_learners(own)], splits, policy)


def set_for_this(config: Config, number: int) -> dict[str, Value]:
    """The settings that `plain` changes, by full name."""
    before = flat(config)
    return {
        key: value for key, value in flat(plain(config, number)).items() if value != before[key]
    }


def attempts(learners: Iterable[Config], splits: Splits, policy: Policy) -> Iterator[Memory]:
    """Let each learner try, until one knows all training images of `splits`."""
    for config in learners:
        memory = learn(rehearse(config, splits, policy))
        yield memory
        if memory.is_whole:
            return


def _known(run: Run, images: Source) -> int:
    found = predictions(run.state.model, images, run.policy)
    return num_correct(found.logits, found.labels)


@torch.no_grad()
def _known_while_training(run: Run, batch: Batch) -> int:
    """With the statistics of the batch, but without dropout."""
    for layer in run.state.model.train().modules():
        if isinstance(layer, _DropoutNd):
            layer.eval()
    return num_correct(forward(run, batch)[1], batch.labels)
