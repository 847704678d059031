"""The training loop.

`fit` opens a run folder, begins the run or continues it, and finishes it; `train_epoch` and
`train_step` are the algorithm. There are no hooks: evaluation, record and checkpoints are plain
calls, and all that must survive a kill is one `TrainState`.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import artefact, checkpoint, interrupt, models, runlog
from deepcnn.checkpoint import TrainState
from deepcnn.config import Config
from deepcnn.data import augment, catalog
from deepcnn.data.images import ImageSet, split_off
from deepcnn.data.loader import Source, batch_slices, order, source
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import Policy, choose_policy, machine, mix
from deepcnn.errors import ConfigError, Interrupted, NonFiniteError, RunError, SaveError
from deepcnn.evaluate import predictions, summary
from deepcnn.files import Damaged
from deepcnn.optim import l1_norm, lr_factor, make_optimizer, set_lr, tensors, update_average
from deepcnn.progress import Display

EVENTS_PER_RUN = 200  # points of the learning curve within epochs
SMOOTHING = 0.01  # weight of the newest loss in the moving average: text 000
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Splits:
    """The images of a run: what it learns from, decides by (None: nothing) and is measured on."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    preprocess: Preprocess


@dataclass
class Run:
    """One process's work on a run folder."""

    folder: Path
    config: Config
    policy: Policy
    splits: Splits
    state: TrainState
    display: Display
    log: runlog.EventLog
    warnings: list[str] = field(default_factory=list)
    saved_at: float = field(default_factory=time.perf_counter)

    @property
    def slices(self) -> list[slice]:
        """The batches of an epoch."""
        train = self.config.train
        return batch_slices(len(self.splits.train), train.batch_size, train.drop_last)

    def record(self, **event: Any) -> None:
        """Add an event to the record; a failing disk is warned of, training goes on."""
        if error := self.log.append(event):
            self.warn(f"cannot write {self.log.path}: {error.strerror}")

    def warn(self, message: str) -> None:
        """Say once that something went wrong that does not stop training."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.display.say(f"warning: {message}; training goes on")

    def save(self) -> None:
        """Commit a checkpoint; if the disk fails, the ones before stay and training goes on."""
        self.saved_at = time.perf_counter()
        try:
            checkpoint.save(self.folder / "checkpoints", self.state)
        except (OSError, Damaged) as error:
            self.warn(f"checkpoint at step {self.state.step} was not written: {error}")


def load_splits(config: Config) -> Splits:
    """Read the data of a run and derive its preprocessing."""
    data = config.data
    train = catalog.load(data.name, "train", data.root)
    test = catalog.load(data.name, "test", data.root)
    if train.classes != test.classes:
        raise ConfigError(f"{data.name}: training and test set have different classes")
    validation = None
    if data.validation:
        train, validation = split_off(train, data.validation, config.train.seed)
    if config.train.batch_size > len(train):
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, but there are only {len(train)} "
            "training images: choose at most that many"
        )
    preprocess = Preprocess(
        train.num_channels,
        data.size or train.size,
        data.pad,
        *_scale(data.pixels, data.name, train),
    )
    return Splits(train, validation, test, preprocess)


def _scale(pixels: str, name: str, train: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation to normalise by, as shares of 255."""
    channels = train.num_channels
    if pixels == "raw":
        return (0.0,) * channels, (1 / 255,) * channels
    if pixels == "unit":
        return (0.0,) * channels, (1.0,) * channels
    if published := catalog.statistics(name):
        return published
    mean = train.images.mean(axis=(0, 2, 3)) / 255
    # A channel that is constant keeps its scale instead of being divided by zero.
    std = train.images.std(axis=(0, 2, 3)) / 255
    return tuple(map(float, mean)), tuple(float(s) or 1.0 for s in std)


def begin_state(config: Config, splits: Splits, policy: Policy) -> TrainState:
    """First weights, a pure function of the seed."""
    torch.manual_seed(mix(config.train.seed, "weights"))
    model = policy.place(
        models.build(
            config.model.name,
            len(splits.train.classes),
            splits.train.num_channels,
            config.model.init,
        )  # fmt: skip
    )
    return TrainState(
        model=model,
        optimizer=make_optimizer(config.optim, model),
        scaler=torch.amp.GradScaler(
            torch.device(policy.device).type, enabled=policy.precision == "fp16"
        ),
        average=tensors(model) if config.train.ema else None,
    )


def fit(config: Config, folder: Path, cache: Path, accept_change: bool = False) -> dict[str, Any]:
    """Train as `config` says into the run folder, or continue what was begun there.

    Returns the facts of the finished run. Raises RunError if the folder holds a finished run or
    one of other settings, Interrupted after a checkpoint when a signal asked to stop.
    """
    with runlog.opened(folder):
        _refuse_changed(folder, config, accept_change)
        splits = load_splits(config)
        interrupt.check()
        policy = _policy(folder, config, splits, cache, accept_change)
        policy.apply()
        state = begin_state(config, splits, policy)
        display = Display(config.train.epochs, 0, 0)
        run = Run(folder, config, policy, splits, state, display,
                  runlog.EventLog(folder, state.events))  # fmt: skip
        _continue(run)
        return _train(run)


def _train(run: Run) -> dict[str, Any]:
    state, total = run.state, run.config.train.epochs * len(run.slices)
    images = source(run.splits.train, run.splits.preprocess, torch.device(run.policy.device))
    run.display = Display(run.config.train.epochs, total, state.step)
    try:
        with run.display:
            while state.epoch < run.config.train.epochs:
                train_epoch(run, images, total)
                end_epoch(run)
                run.save()
            return finish(run)
    except Interrupted as stop:
        run.save()
        raise Interrupted(f"{stop} at step {state.step} of {total}", stop.exit_code - 128) from stop


def train_epoch(run: Run, images: Source, total: int) -> None:
    """Make the updates that are left of the epoch under way."""
    config, state, slices = run.config, run.state, run.slices
    permutation = order(config.train.seed, state.epoch, len(images.images))
    parameters = augment.draw(config.augment, config.train.seed, state.epoch, len(permutation))
    for part in slices[state.step - state.epoch * len(slices) :]:
        interrupt.check()
        began = time.perf_counter()
        indices = permutation[part]
        set_lr(
            state.optimizer, config.optim.lr * lr_factor(config.optim, (state.step + 0.5) / total)
        )
        torch.manual_seed(mix(config.train.seed, "step", state.step))
        pieces = (
            images.batch(piece, config.augment, parameters)
            for piece in indices.tensor_split(config.train.accumulate)
        )
        loss, correct = train_step(run, pieces, len(indices))
        count(run, loss, correct, len(indices), time.perf_counter() - began, total)


def train_step(run: Run, pieces: Iterator[Any], num_images: int) -> tuple[float, int]:
    """Make one update from a batch given in pieces; return its mean loss and correct images.

    Raises NonFiniteError before anything is changed by a loss or gradient that is not finite.
    """
    config, state = run.config, run.state
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    total_loss, correct = 0.0, 0
    for batch in pieces:
        with run.policy.autocast():
            logits = state.model(run.policy.arrange(batch.images))
        share = len(batch.labels) / num_images
        loss = F.cross_entropy(
            logits.float(), batch.labels, label_smoothing=config.train.label_smoothing
        )
        objective = loss + config.optim.l1 * l1_norm(state.model) if config.optim.l1 else loss
        value, hits = torch.stack(
            [objective.detach(), (logits.argmax(dim=1) == batch.labels).sum()]
        ).tolist()  # one wait for the device, not two
        _require_finite(run, value, "loss", batch.indices)
        state.scaler.scale(objective * share).backward()
        total_loss += value * share
        correct += int(hits)
    state.scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not state.scaler.is_enabled():  # a scaler skips such updates itself, and lowers its scale
        _require_finite(run, float(norm), "gradient norm", batch.indices)
    if config.optim.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), config.optim.clip_norm, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return total_loss, correct


def count(run: Run, loss: float, correct: int, num_images: int, seconds: float, total: int) -> None:
    """Account for the update just made; checkpoint when one is due."""
    state, train = run.state, run.config.train
    if state.average is not None:
        update_average(state.average, state.model, train.ema, state.step)
    state.step += 1
    state.loss_sum += loss * num_images
    state.correct += correct
    state.seen += num_images
    state.moving_loss = (
        loss if state.moving_loss is None
        else (1 - SMOOTHING) * state.moving_loss + SMOOTHING * loss
    )  # fmt: skip
    state.seconds += seconds
    if state.step % max(1, total // EVENTS_PER_RUN) == 0:
        lr = state.optimizer.param_groups[0]["lr"]
        run.record(event="step", step=state.step, lr=lr, loss=loss, moving_loss=state.moving_loss)
    run.display.step(
        state.step, state.epoch, state.moving_loss, state.correct / state.seen, num_images / seconds
    )
    if time.perf_counter() - run.saved_at >= train.checkpoint_seconds:
        run.save()


def end_epoch(run: Run) -> None:
    """Measure, record and count an epoch whose updates have all been made."""
    state, config = run.state, run.config
    event: dict[str, Any] = {
        "event": "epoch",
        "epoch": state.epoch + 1,
        "step": state.step,
        "loss": state.loss_sum / state.seen,
        "train_accuracy": state.correct / state.seen,
        "moving_loss": state.moving_loss,
    }
    if run.splits.validation:
        event["validation_accuracy"] = _accuracy(run, run.splits.validation)
        if event["validation_accuracy"] > state.best_accuracy:
            state.best_accuracy, state.best_step = event["validation_accuracy"], state.step
    if config.train.test_each_epoch:
        event["test_accuracy"] = _accuracy(run, run.splits.test)
    state.epoch += 1
    state.loss_sum, state.correct, state.seen = 0.0, 0, 0
    run.record(**event, seconds=state.seconds)
    run.display.say(_in_words(event, config.train.epochs, state.seconds))


def finish(run: Run) -> dict[str, Any]:
    """Read the test set once, with the final weights in fp32, and commit the finished model."""
    config, splits, state = run.config, run.splits, run.state
    model = _final_model(run)
    result = predictions(model, _source(run, splits.test), _exact(run.policy), EVALUATION_BATCH)
    facts = {
        "test": summary(result, splits.test.classes),
        "validation": None,
        "num_train_images": len(splits.train),
        "num_parameters": models.num_parameters(state.model),
        "seconds": state.seconds,
        "config": asdict(config),
        "policy": asdict(run.policy),
        "data_fingerprint": splits.train.fingerprint(),
    }
    if splits.validation:
        held_out = predictions(
            model, _source(run, splits.validation), _exact(run.policy), EVALUATION_BATCH
        )
        facts["validation"] = summary(held_out, splits.test.classes)
    try:
        artefact.save(
            run.folder / "model", config.model.name, state.final_weights(), splits.preprocess,
            splits.test.classes, facts,
        )  # fmt: skip
    except (OSError, Damaged) as error:
        raise SaveError(
            f"the finished model could not be written to {run.folder / 'model'}: {error}. "
            "Make room and repeat the command: it goes on from the last checkpoint"
        ) from error
    return facts


def _final_model(run: Run) -> nn.Module:
    """The model with its final weights, in a copy: the state in training stays as it is."""
    splits = run.splits
    model = models.build(
        run.config.model.name, len(splits.train.classes), splits.train.num_channels
    )
    model.load_state_dict(run.state.final_weights())
    return run.policy.place(model)


def _accuracy(run: Run, images: ImageSet) -> float:
    """Accuracy during training: final weights so far, the run's own precision."""
    model = _final_model(run) if run.state.average is not None else run.state.model
    return predictions(model, _source(run, images), run.policy, EVALUATION_BATCH).accuracy()


def _source(run: Run, images: ImageSet) -> Source:
    return source(images, run.splits.preprocess, torch.device(run.policy.device))


def _exact(policy: Policy) -> Policy:
    return Policy(policy.device, "fp32", policy.layout, policy.threads)


def _require_finite(run: Run, value: float, what: str, indices: Tensor) -> None:
    if value - value == 0:  # false for infinity and not-a-number
        return
    batch = indices.tolist()
    saved = sorted((run.folder / "checkpoints").glob("step-*"))
    raise NonFiniteError(
        f"{what} is {value} in step {run.state.step}, training images "
        f"{', '.join(map(str, batch[:8]))}{' ...' if len(batch) > 8 else ''}; no update was made. "
        f"Last good checkpoint: {saved[-1] if saved else 'none yet'}. "
        f"Try a lower --optim.lr (now {run.config.optim.lr}), --optim.clip_norm 1 or "
        "--precision fp32"
    )


def _refuse_changed(folder: Path, config: Config, accept_change: bool) -> None:
    if not runlog.is_begun(folder):
        return
    changes = runlog.differences(runlog.recorded_config(folder), config)
    if changes and not accept_change:
        raise RunError(
            f"{folder} holds a run of other settings ({'; '.join(changes)}). Give another --out, "
            "or --accept-change to go on with the settings of now"
        )
    if runlog.is_finished(folder):
        raise RunError(
            f"{folder} holds a finished run, so nothing was done. "
            f"See `deepcnn evaluate {folder}`, or give another --out"
        )


def _policy(
    folder: Path, config: Config, splits: Splits, cache: Path, accept_change: bool
) -> Policy:
    """The recorded policy of a run that goes on; a measured one for a new run, which it begins."""
    shape = (
        min(config.train.batch_size, len(splits.train)), splits.train.num_channels,
        splits.preprocess.input_size, splits.preprocess.input_size,
    )  # fmt: skip
    classes = len(splits.train.classes)
    models.check_input(config.model.name, classes, shape[1], shape[2])
    fingerprint = splits.train.fingerprint()
    if runlog.is_begun(folder):
        recorded = runlog.read_json(folder / "environment.json")
        policy = Policy(**recorded["policy"])
        now = {"data_fingerprint": fingerprint, "machine": machine(policy.device)}
        changes = [
            f"{key}: {recorded[key]} then, {now[key]} now"
            for key in now
            if recorded[key] != now[key]
        ]
        if changes and not accept_change:
            raise RunError(
                f"{folder} was begun under other conditions ({'; '.join(changes)}); the outcome "
                "would not be that of an uninterrupted run. Give another --out, or "
                "--accept-change to go on"
            )
        return policy
    policy, origin = choose_policy(
        config.hardware,
        f"{config.model.name} {classes}",
        lambda: models.build(config.model.name, classes, shape[1], config.model.init),
        shape,
        cache,
    )
    runlog.begin(
        folder,
        config,
        {
            "policy": asdict(policy),
            "policy_origin": origin,
            "machine": machine(policy.device),
            "data_fingerprint": fingerprint,
        },
    )
    return policy


def _continue(run: Run) -> None:
    """Go on from the newest checkpoint that verifies, if there is one."""
    folder = run.folder / "checkpoints"
    if not folder.exists():
        return
    place, passed_over = checkpoint.load_newest(folder, run.state)
    for reason in passed_over:
        run.display.say(f"warning: {reason}")
    checkpoint.discard_after(folder, run.state.step if place else -1)
    run.log.events = run.state.events
    if place:
        run.display.say(f"continuing {run.folder} at step {run.state.step}")


def _in_words(event: dict[str, Any], epochs: int, seconds: float) -> str:
    parts = [f"epoch {event['epoch']}/{epochs}", f"loss {event['loss']:.4f}"]
    for key in ("train_accuracy", "validation_accuracy", "test_accuracy"):
        if key in event:
            parts.append(f"{key.replace('_', ' ')} {event[key]:.4f}")
    return "  ".join([*parts, f"{seconds:.1f} s"])
