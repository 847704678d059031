"""What is foretold when a run begins: its memory, and whether batches must be divided for it."""

import time

from deepcnn import cost
from deepcnn.errors import ConfigError
from deepcnn.forecast import process
from deepcnn.forecast.foreseen import Foreseen
from deepcnn.forecast.memory import size_of
from deepcnn.forecast.run import LATER, Memory, memory_of
from deepcnn.forecast.time import lengths_of
from deepcnn.pieces import pieces_in_words
from deepcnn.progress import duration
from deepcnn.run import Run
from deepcnn.sizes import in_bytes, limit

SMALL = 40 * 10**6  # bytes that are lost in the process: what takes less is not measured
ENOUGH = 3.0  # seconds of updates after which the time of a run is foretold


def foresee(run: Run, may_divide: bool) -> Foreseen:
    """Foretell and announce the memory of a run. With `may_divide`, a batch that does not fit is
    computed in the fewest pieces that do.

    Raises ConfigError where memory is limited by the settings, and no piece fits.
    """
    config, state = run.config, run.state
    foreseen = Foreseen(step_before=state.step, seconds_before=state.seconds)
    if not config.train.epochs:
        return foreseen
    foreseen.is_asked, foreseen.began = not config.train.budget, time.perf_counter()
    most = memory_limit(run)
    least = process.resident() + LATER
    small = SMALL if run.policy.device.startswith("cuda") else bound(run)
    if small < SMALL and (not most or least + small < most):
        foreseen.memory = least + small
        _announce(run, foreseen, most)
        return foreseen
    try:
        memory = memory_of(run)
    except ValueError as reason:
        run.display.say(f"memory is not foretold for {config.model.name}: {reason}")
        return foreseen
    if may_divide and most:
        _divide(run, memory, most)
    found = memory.forecast(config.train.batch_size, state.pieces)
    foreseen.memory, foreseen.phase = found.size, found.phase
    _announce(run, foreseen, most)
    foreseen.began = time.perf_counter()
    return foreseen


def bound(run: Run) -> int:
    """Bytes that a step certainly does not exceed, from what each layer puts out for an image: as
    numbers and as their gradients, each with as much again that comes and goes; and of each
    parameter itself, its gradient and its state.
    """
    model, preprocess = run.state.model, run.splits.preprocess
    was_training, side = model.training, preprocess.input_size
    table = cost.layers(model, (preprocess.channels, side, side))
    model.train(was_training)
    image = sum(layer.activation_bytes for layer in table)
    weights = size_of(model.state_dict().values())
    return 4 * image * run.config.train.batch_size + 4 * weights


def _announce(run: Run, foreseen: Foreseen, most: int | None) -> None:
    available = f", of {in_bytes(most)}" if most else ""
    size = in_bytes(foreseen.memory or 0)
    phase = f", in {foreseen.phase}" if foreseen.phase else ""
    run.display.say(f"memory: {size} at most{phase}{available}")


def memory_limit(run: Run) -> int | None:
    """Bytes that the run may take: as set, or as there are; None where the system does not say."""
    given = limit(run.config.hardware.memory)
    return process.limit(run.policy.device) if given is None else given


def _divide(run: Run, memory: Memory, most: int) -> None:
    batch, state = run.config.train.batch_size, run.state
    if memory.forecast(batch, state.pieces).size <= most:
        return
    pieces = memory.fewest_pieces(batch, most)
    if pieces is None:
        least = memory.forecast(batch, max(1, batch // 2)).size
        if run.config.hardware.memory:
            raise ConfigError(
                f"hardware.memory is {run.config.hardware.memory}, but {run.config.model.name} "
                f"takes {in_bytes(least)} with two images of a batch at once: raise it, lower "
                "--train.batch_size or --data.size, or choose a smaller network"
            )
        run.display.say(f"warning: {in_bytes(most)} of memory are free, {in_bytes(least)} wanted")
        pieces = max(1, batch // 2)
    state.pieces = max(pieces, state.pieces)
    run.display.say(
        f"{in_bytes(memory.forecast(batch).size)} of memory would be more than the "
        f"{in_bytes(most)} there are: {pieces_in_words(state.model, run.config, state.pieces)}"
    )


def foresee_time(run: Run) -> None:
    """Foretell and announce the time of a run, once enough of its updates have been made."""
    foreseen, state = run.foreseen, run.state
    is_open = foreseen.is_asked and foreseen.seconds is None
    if not is_open or state.seconds - foreseen.seconds_before < ENOUGH:
        return
    update = (state.seconds - foreseen.seconds_before) / (state.step - foreseen.step_before)
    so_far = time.perf_counter() - foreseen.began
    with run.watch.during("measuring"):
        foreseen.seconds = so_far + lengths_of(run, update, foreseen.step_before).rest(run)
    run.display.say(f"time: {duration(foreseen.seconds)} from the first update to the end")
