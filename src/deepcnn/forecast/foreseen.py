"""What was foretold of a run, and what came true."""

import time
from dataclasses import dataclass, field
from typing import Any

from deepcnn.progress import duration
from deepcnn.sizes import in_bytes


@dataclass
class Foreseen:
    """Peak memory in bytes, and seconds from the beginning of training to the end; None where
    nothing was foretold.
    """

    memory: int | None = None
    phase: str = ""  # in which memory has its peak; none of a run that is lost in the process
    seconds: float | None = None
    is_asked: bool = False  # whether to foretell seconds: a budget says it itself
    began: float = field(default_factory=time.perf_counter)
    step_before: int = 0  # updates, and seconds of training, that were made before that
    seconds_before: float = 0.0

    def as_dict(self, peak: int | None) -> dict[str, Any]:
        """What was foretold beside what came true by now, for the record."""
        took = time.perf_counter() - self.began
        return {
            "memory": self.memory,
            "memory_phase": self.phase,
            "memory_error": self.memory / peak - 1 if self.memory and peak else None,
            "seconds": self.seconds,
            "seconds_taken": took,
            "seconds_error": self.seconds / took - 1 if self.seconds else None,
        }


def in_words(facts: dict[str, Any], peak: int | None) -> list[str]:
    """Lines about what `as_dict` gave; none where nothing was foretold."""
    lines = []
    if facts.get("memory_error") is not None and peak:
        foretold = f"{in_bytes(facts['memory'])} foretold, {off_by(facts['memory_error'])}"
        lines.append(f"most memory    {in_bytes(peak)}  ({foretold})")
    if facts.get("seconds_error") is not None:
        foretold = f"{duration(facts['seconds'])} foretold, {off_by(facts['seconds_error'])}"
        lines.append(f"all of it      {duration(facts['seconds_taken'])}  ({foretold})")
    return lines


def off_by(error: float) -> str:
    """A relative error in whole percent: +3%, never -0%."""
    return f"{round(error, 2) + 0.0:+.0%}"
