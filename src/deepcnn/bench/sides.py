"""Each side of a comparison in a process of its own, which stands still when it is not its turn.

What a side sets for its whole process (threads, memory, kernels) then changes nothing for the
other. And the worker processes of a DataLoader, which compute up to four batches ahead, cannot go
on while the other side is measured, to begin their next turn with work that no clock has seen:
stopped, they leave the queue as it is, so that a turn computes as many batches as it takes.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from deepcnn.bench.clock import synchronize

PATIENCE = 30.0  # seconds that a side is given to end by itself


class Side:
    """An object in another process whose methods can be called."""

    def __init__(self, build: Callable[..., AbstractContextManager[Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, build, arguments))
        self.process.start()
        far_end.close()
        self.pipe.recv()  # it is built
        self._signal(signal.SIGSTOP)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method; EOFError if it fails, after the process has printed why."""
        self.begin(method, *arguments)
        self.turn()
        return self.answer()

    def begin(self, method: str, *arguments: Any) -> None:
        """Have a method called in the turns to come."""
        self.pipe.send((method, arguments))

    def turn(self, seconds: float | None = None) -> bool:
        """Let the process work until the method has come to its end, but no longer than `seconds`;
        whether it has.
        """
        self._signal(signal.SIGCONT)
        is_answered = self.pipe.poll(seconds)
        self._signal(signal.SIGSTOP)
        return is_answered

    def answer(self) -> Any:
        """What the method came to; EOFError if it failed, after the process has printed why."""
        return self.pipe.recv()

    def close(self) -> None:
        """Let the process clean up and end."""
        self._signal(signal.SIGCONT)
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """To the process and its workers, which make up a process group."""
        if self.process.is_alive() and self.process.pid is not None:
            os.killpg(self.process.pid, number)


@contextmanager
def side(build: Callable[..., AbstractContextManager[Any]], *arguments: Any) -> Iterator[Side]:
    """Enter `build(*arguments)` in a process of its own, and leave it with the block."""
    made = Side(build, *arguments)
    try:
        yield made
    finally:
        made.close()


def _serve(
    pipe: Connection, build: Callable[..., AbstractContextManager[Any]], arguments: tuple[Any, ...]
) -> None:
    os.setpgid(0, 0)
    with build(*arguments) as served:
        pipe.send("built")
        while True:
            try:
                method, values = pipe.recv()
            except EOFError:
                return
            answer = getattr(served, method)(*values)
            synchronize()
            pipe.send(answer)
