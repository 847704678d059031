"""What the arithmetic runs on: device, number format, layout, threads, and random numbers."""

import ctypes
import hashlib
import os
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deepcnn.config import Hardware
from deepcnn.errors import ConfigError

# Parameters of mallopt, from malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
X86 = ("x86_64", "AMD64", "i386", "i686")  # as systems name them

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Policy:
    """How a run computes; part of what decides its bits, so recorded and kept."""

    device: str
    precision: str
    layout: str
    threads: int

    def apply(self) -> None:
        """Set the process up: threads, exact kernels."""
        torch.set_num_threads(self.threads)
        _keep_freed_memory()
        if self.device.startswith("cuda"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device in this layout."""
        return model.to(device=self.device, memory_format=FORMATS[self.layout])  # type: ignore[call-overload,no-any-return]

    def arrange(self, images: Tensor) -> Tensor:
        """Images N C H W in this layout."""
        return images.contiguous(memory_format=FORMATS[self.layout])

    def under(self, settings: Hardware) -> "Policy":
        """The same with everything that `settings` fix."""
        return Policy(
            device=self.device if settings.device == "auto" else find_device(settings.device),
            precision=self.precision if settings.precision == "auto" else settings.precision,
            layout=self.layout if settings.layout == "auto" else settings.layout,
            threads=settings.threads or self.threads,
        )

    def reseed(self, seed: int) -> None:
        """Set the global generators that layers such as dropout draw from on this device."""
        # torch.manual_seed also formats three stack traces for devices not in use, in 0.6 ms.
        torch.default_generator.manual_seed(seed)
        if self.device.startswith("cuda"):
            torch.cuda.manual_seed_all(seed)
        elif self.device == "mps":
            torch.mps.manual_seed(seed)

    def exact(self) -> "Policy":
        """The same in fp32: what results that are published are measured with."""
        return replace(self, precision="fp32")

    def autocast(self) -> AbstractContextManager[object]:
        """Products in 16 bits where that is the policy."""
        return torch.autocast(
            torch.device(self.device).type,
            dtype=DTYPES[self.precision],
            enabled=self.precision != "fp32",
        )


def mix(seed: int, *names: object) -> int:
    """A seed of its own for each use of chance, 63 bits."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A fresh source of random numbers that depends on its arguments only."""
    return torch.Generator().manual_seed(mix(seed, *names))


def find_device(name: str) -> str:
    """The device of that name, or the fastest there is; ConfigError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.type != "cuda" and name not in ("cpu", "mps")):
        raise ConfigError(f"unknown device {name!r}, expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(f"device {name} is not there: {count} CUDA devices found; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps is not there: no Apple GPU found; use cpu")
    return name


def available_threads() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(device: str) -> dict[str, object]:
    """What decides the bits besides the configuration: chip, cores, versions."""
    facts: dict[str, object] = {
        "processor": _processor(),
        "cores": available_threads(),
        "system": platform.system(),
        "torch": torch.__version__,
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def peak_memory(device: str) -> int | None:
    """Bytes: the most that this process has had of the device, or of main memory where it computes
    on the CPU; None where the system does not say.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # there bytes, elsewhere kilobytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python gave up for want of memory, which torch says in several ways."""
    wanting = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in wanting)
    )


def plain_policy(device: str) -> Policy:
    """The device of that name with fp32 and all cores, which is always right, if not fastest."""
    return Policy(find_device(device), "fp32", "contiguous", available_threads())


def has_bf16(device: str) -> bool:
    """Whether the device computes in bfloat16 by itself."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # That is said of any x86 with AVX-512: without the instructions the format is emulated there,
    # and slower than fp32.
    is_x86 = platform.machine() in X86
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has_instructions or not is_x86


def _keep_freed_memory() -> None:
    """Have the C library hold on to large freed blocks instead of handing them back to the system.

    Each update needs the same buffers again; to have their pages mapped and zeroed every time takes
    an eighth of a training step of AlexNet. GNU's library only; harmless where there is none.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _processor() -> str:
    """Name of the CPU as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    wanted = ("model name\t", "cpu family\t", "model\t\t")
    return " / ".join(facts[key].strip() for key in wanted if key in facts) or platform.machine()
