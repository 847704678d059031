"""What this process has of the machine's memory, and what there is."""

import ctypes
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch

# Large blocks that are freed stay with the process (`Policy.apply`), and the GNU C library before
# 2.38 looks for a hole larger than the block by its alignment, so that a tensor never fits where
# one of its size has been (malloc.c, `_int_memalign`). What comes and goes in a step so takes more
# than it is large: over ten networks, precisions and optimisers 1.3 to 1.8 times, 1.5 in the
# middle. Later versions reuse such holes; other libraries give large blocks back.
HOLES, HOLES_ELSEWHERE = 1.5, 1.15
CGROUP = Path("/sys/fs/cgroup")


class Heap(NamedTuple):
    """Bytes of the C library's heap: in use, and free but not given back."""

    used: int
    free: int


class _Facts(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def heap() -> Heap:
    """The heap as it is now; nothing in it where the library does not say."""
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None or not hasattr(library, "mallinfo2"):
        return Heap(0, 0)
    library.mallinfo2.restype = _Facts
    facts = library.mallinfo2()
    return Heap(facts.uordblks, facts.fordblks)


def holes() -> float:
    """What tensors that come and go take of the system, as a multiple of what they are."""
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return HOLES if name == "glibc" and numbers < (2, 38) else HOLES_ELSEWHERE


def resident() -> int:
    """Bytes of main memory that this process has now; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def limit(device: str) -> int | None:
    """Bytes that this process may come to have of the device, or of main memory: what it has, and
    what is free on the machine and in its control group. None where the system does not say.
    """
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device) + torch.cuda.mem_get_info(device)[0]
    free = [size for size in (_free_memory(), _free_in_group()) if size is not None]
    return resident() + min(free) if free else None


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024


def _free_in_group() -> int | None:
    """Of the control group, version 2: its limit less what is used and cannot be dropped."""
    try:
        most, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not most.strip().isdigit():  # max
        return None
    return int(most) - int(used) + int(facts.get("inactive_file", 0))
