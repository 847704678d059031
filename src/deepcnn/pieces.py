"""A batch computed in pieces: the same update, less memory; and more of them where it runs out."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deepcnn.config import Config
from deepcnn.errors import DeepcnnError
from deepcnn.run import Run


class NoMemory(DeepcnnError):
    """Memory ran out in an update, of which nothing was made."""


def in_pieces(update: Tensor, number: int) -> tuple[Tensor, ...]:
    """The parts a batch is computed in. Batch statistics need two images in each, also in a shorter
    last batch.
    """
    return update.tensor_split(min(number, max(1, len(update) // 2)))


@contextmanager
def undone(run: Run) -> Iterator[None]:
    """Leave the model as it was before the block if memory runs out in it; then raise NoMemory."""
    buffers = run.state.model.buffers()
    before = [(buffer, buffer.clone()) for buffer in buffers]  # statistics of batch norm
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        run.state.optimizer.zero_grad(set_to_none=True)
        raise NoMemory(not_enough(run.config)) from error


def split_further(run: Run) -> None:
    """Compute batches in twice as many pieces from now on, which the next checkpoint remembers.

    Raises NoMemory where they cannot be smaller.
    """
    state, config = run.state, run.config
    if state.pieces >= config.train.batch_size // 2:
        raise NoMemory(not_enough(config))
    gc.collect()
    if run.policy.device.startswith("cuda"):
        torch.cuda.empty_cache()
    state.pieces *= 2
    run.record(event="pieces", step=state.step, pieces=state.pieces)
    run.display.say(
        f"memory ran out in update {state.step + 1}, of which nothing was made: it is repeated, "
        f"with {pieces_in_words(state.model, config, state.pieces)}"
    )
    run.save()  # so that a run that is killed now repeats the same updates


def pieces_in_words(model: nn.Module, config: Config, number: int) -> str:
    """What it means to compute batches in so many pieces."""
    text = f"batches computed in {number} pieces: the same mean loss, updates and schedule"
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        size = -(-config.train.batch_size // number)
        text += f"; batch norm sees {size} images at once, not {config.train.batch_size}"
    return text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python gave up for want of memory, which torch says in several ways."""
    wanting = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in wanting)
    )


def not_enough(config: Config) -> str:
    """What to do where memory ran out."""
    return (
        f"not enough memory for batches of {config.train.batch_size} images: lower "
        "--train.batch_size, raise --train.accumulate (same result) or lower --data.size"
    )
