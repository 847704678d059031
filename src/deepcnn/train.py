"""The training loop.

`fit` opens a run folder, begins its run or continues it, and finishes it; `train_epoch` and
`train_step` are the algorithm. There are no hooks: evaluation, record and checkpoints are plain
calls, and all that must survive a kill is the run's one `TrainState`.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn import interrupt, runlog, speed, words
from deepcnn.ahead import replanned
from deepcnn.begin import begin
from deepcnn.config import Config
from deepcnn.data.augment import draw
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch, Source, epoch_batches
from deepcnn.device import mix
from deepcnn.errors import DeepcnnError, Interrupted, NonFiniteError
from deepcnn.evaluate import predictions
from deepcnn.finish import finish, report
from deepcnn.forecast.start import foresee_time
from deepcnn.objective import forward
from deepcnn.optim import lr_factor, set_lr, update_average
from deepcnn.phases import Stopwatch
from deepcnn.pieces import NoMemory, in_pieces, is_out_of_memory, not_enough, split_further, undone
from deepcnn.run import Run

EVENTS_PER_RUN = 200  # points of the learning curve within epochs
SMOOTHING = 0.01  # weight of the newest loss in the moving average: text 000


def fit(
    config: Config,
    folder: Path,
    cache: Path,
    accept_change: bool = False,
    live: bool = False,
    began: float | None = None,
) -> dict[str, Any]:
    """Train as `config` says into the run folder, or continue what was begun there.

    With `live`, its report is written anew after each epoch. A time budget runs since `began`, by
    default now, on the clock of `time.perf_counter`. Returns the facts of the finished model.
    Raises RunError if the folder cannot be used for this, ConfigError if the budget is too short,
    Interrupted after a checkpoint when a signal asked to stop, NonFiniteError, SaveError.
    """
    with runlog.opened(folder), _memory_explained(config):
        run = begin(config, folder, cache, accept_change, began)
        try:
            with run.display.following(run.state.step, run.total()):
                train_epochs(run, run.total(), live)
                return finish(run)
        except Interrupted as stop:
            run.save()
            message = f"{stop} at step {run.state.step} of {run.total()}"
            raise Interrupted(message, stop.signal_number) from stop


def train_epochs(run: Run, total: int, live: bool = False) -> None:
    """Go through the epochs that are left, with a checkpoint after each; `live`: and a report."""
    run.watch = Stopwatch()
    images = run.source(run.splits.train)
    if run.state.step == 0:
        run.keep_filters()
    measure_beginning(run)
    if live:
        report(run, live)
    while run.is_under_way() and not is_stale(run):
        train_epoch(run, images, total)
        end_epoch(run)
        run.keep_filters()
        run.save()
        speed.tell(run, images, speed.SHORT)
        if live:
            report(run, live)


def measure_beginning(run: Run) -> None:
    """Let a fitted last layer be the best so far, where the best is kept: training may not help."""
    config, state, held_out = run.config, run.state, run.splits.validation
    is_first = state.step == 0 and state.best_step < 0
    if is_first and config.transfer.probe and config.train.keep == "best" and held_out:
        state.best_accuracy, state.best_step = accuracy(run, held_out), state.step
        run.display.say(f"before training: validation accuracy {state.best_accuracy:.4f}")
        run.save()


def is_stale(run: Run) -> bool:
    """Whether validation accuracy has not risen for as many epochs as the run has patience."""
    best, patience = run.state.best_step, run.config.train.patience
    # By epochs concluded: the updates of the last one may be made, but not measured yet.
    since = run.state.epoch - patience
    return patience > 0 and since >= 0 and 0 <= best <= run.updates(since)


def train_epoch(run: Run, images: Source, total: int) -> None:
    """Make the updates that are left of the epoch under way; `total` is that of the run.

    Where memory runs out, the update under way and those after it are made in smaller pieces.
    """
    while True:
        try:
            make_updates(run, images, total)
            return
        except NoMemory:
            pass
        split_further(run)  # out here nothing holds what the update has made any more


def make_updates(run: Run, images: Source, total: int) -> None:
    """Make the updates that are left of the epoch under way, in pieces as they are now."""
    config, state = run.config, run.state
    permutation = run.visits()
    parameters = draw(config.augment, config.train.seed, state.epoch, len(images), run.components())
    positions = torch.arange(len(permutation))
    num_made = state.step - run.updates(state.epoch)
    updates = [positions[part] for part in run.slices(state.epoch)[num_made:]]
    pieces = epoch_batches(
        images,
        permutation,
        (piece for update in updates for piece in in_pieces(update, state.pieces)),
        config.augment,
        parameters,
    )
    for update in updates:
        if run.is_over():
            break
        interrupt.check()
        total = replanned(run, total)
        began = time.perf_counter()
        progress, progress_then = run.advance(total)
        run.reach(progress)
        lr = config.optim.lr * lr_factor(config.optim, progress)
        num_pieces = len(in_pieces(update, state.pieces))
        loss, correct = make_update(run, islice(pieces, num_pieces), permutation[update], lr)
        account(run, loss, correct, len(update), time.perf_counter() - began)
        state.progress = progress_then
        run.watch.start("other")
        note(run, loss, len(update), total)
        foresee_time(run)
        speed.tell(run, images, speed.LONG)


def make_update(run: Run, pieces: Iterable[Batch], indices: Tensor, lr: float) -> tuple[float, int]:
    """A training step at a learning rate, with the random numbers of its place in the run."""
    set_lr(run.state.optimizer, lr)
    run.policy.reseed(mix(run.config.train.seed, "step", run.state.step))  # for dropout
    return train_step(run, pieces, indices)


def train_step(run: Run, pieces: Iterable[Batch], indices: Tensor) -> tuple[float, int]:
    """Make one update from a batch given in pieces; return its mean loss and correct images.

    `indices` are those of the whole batch in the training set.

    Raises NonFiniteError before anything is changed by a loss or gradient that is not finite, and
    NoMemory before anything is changed.
    """
    state, clip_norm = run.state, run.config.optim.clip_norm
    state.model.train()
    with undone(run):
        total_loss, correct = sum_gradients(run, pieces, indices)
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in state.model.parameters() if p.grad is not None]
    )
    if not state.scaler.is_enabled():  # a scaler leaves such updates out, and lowers its scale
        _require_finite(run, float(norm), "the gradient norm", indices)
    run.watch.start("optimiser")
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(state.model.parameters(), clip_norm, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return total_loss, correct


def sum_gradients(run: Run, pieces: Iterable[Batch], indices: Tensor) -> tuple[float, int]:
    """Leave the gradients of a batch in the model; return its mean loss and correct images."""
    state = run.state
    state.optimizer.zero_grad(set_to_none=True)
    total_loss, correct = 0.0, 0
    for batch in pieces:
        run.watch.start("forward")
        share = len(batch.labels) / len(indices)
        objective, logits = forward(run, batch)
        hits = (logits.argmax(dim=1) == batch.labels).sum()
        value, count = torch.stack([objective.detach(), hits]).tolist()  # one wait, not two
        _require_finite(run, value, "the loss", indices)
        run.watch.start("backward")
        state.scaler.scale(objective * share).backward()
        total_loss += value * share
        correct += int(count)
        if state.losses is not None:
            own = F.cross_entropy(logits.detach(), batch.labels, reduction="none")
            state.losses[batch.indices.cpu()] = own.cpu()
    return total_loss, correct


def account(run: Run, loss: float, correct: int, num_images: int, seconds: float) -> None:
    """Count the update just made in the state."""
    state = run.state
    if state.average is not None:
        update_average(state.average, state.model, run.config.train.ema, state.step)
    state.step += 1
    state.loss_sum += loss * num_images
    state.correct += correct
    state.seen += num_images
    before = loss if state.moving_loss is None else state.moving_loss
    state.moving_loss = (1 - SMOOTHING) * before + SMOOTHING * loss
    state.seconds += seconds
    if num_images == run.config.train.batch_size:
        run.fastest = min(run.fastest, seconds)


def note(run: Run, loss: float, num_images: int, total: int) -> None:
    """Show and record the update just made; checkpoint when one is due."""
    state = run.state
    if state.step % max(1, total // EVENTS_PER_RUN) == 0:
        group = state.optimizer.param_groups[-1]
        lr = group["lr"] / group["factor"]
        run.record(event="step", step=state.step, lr=lr, loss=loss, moving_loss=state.moving_loss)
    facts = f"loss {state.moving_loss:.4f}  accuracy {state.correct / state.seen:.3f}"
    run.display.step(state.step, state.epoch, facts, num_images)
    if time.perf_counter() - run.saved_at >= run.config.train.checkpoint_seconds:
        run.save()


def end_epoch(run: Run) -> None:
    """Measure, record and conclude an epoch: its updates are made, or a budget cuts it short."""
    state, splits = run.state, run.splits
    event: dict[str, Any] = {
        "event": "epoch",
        "epoch": state.epoch + 1,
        "step": state.step,
        "loss": state.loss_sum / state.seen,
        "moving_loss": state.moving_loss,
        "train_accuracy": state.correct / state.seen,
    }
    if state.losses is not None or state.step < run.updates(state.epoch + 1):
        event["visited"] = state.seen
    if splits.validation:
        event["validation_accuracy"] = accuracy(run, splits.validation)
        if event["validation_accuracy"] > state.best_accuracy:
            state.best_accuracy, state.best_step = event["validation_accuracy"], state.step
    if run.config.train.test_each_epoch:
        event["test_accuracy"] = accuracy(run, splits.test)
    state.epoch, state.visits = state.epoch + 1, None
    state.loss_sum, state.correct, state.seen = 0.0, 0, 0
    run.record(**event, seconds=state.seconds, **speed.facts(run))
    run.display.say(words.epoch_in_words(event, run.num_epochs(), state.seconds))


def accuracy(run: Run, images: ImageSet) -> float:
    """Accuracy of the weights so far, in the run's own precision."""
    with run.watch.during("evaluating"):
        model = run.final_model() if run.state.average is not None else run.state.model
        return predictions(model, run.source(images), run.policy).accuracy()


@contextmanager
def _memory_explained(config: Config) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeepcnnError(not_enough(config)) from error


def _require_finite(run: Run, value: float, what: str, indices: Tensor) -> None:
    if value - value == 0:  # false for infinities and for not-a-number
        return
    batch = indices.tolist()
    raise NonFiniteError(
        f"{what} is {value} in step {run.state.step}, on training images "
        f"{', '.join(map(str, batch[:8]))}{' ...' if len(batch) > 8 else ''}; no update was made. "
        f"{run.remedy()}"
    )
