"""Work in threads, handed over group by group in the order it was asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from torch import set_num_threads

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    function: Callable[[T], R], groups: Iterable[Sequence[T]], threads: int, ahead: int
) -> Iterator[list[R]]:
    """Yield the results of each group of items in turn, with `ahead` further groups under way.

    `function` runs in `threads` threads at once, in each of which PyTorch uses that one only. What
    it raises is raised here, at its turn.
    """
    pool = ThreadPoolExecutor(threads, initializer=set_num_threads, initargs=(1,))
    waiting: deque[list[Future[R]]] = deque()
    try:
        for group in groups:
            waiting.append([pool.submit(function, item) for item in group])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
