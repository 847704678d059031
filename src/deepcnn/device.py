"""What the arithmetic runs on: device, number format, layout, threads, and random numbers."""

import ctypes
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.config import Hardware
from deepcnn.errors import ConfigError
from deepcnn.files import replace_file

CLEAR_GAIN = 1.10  # a choice departs from the plain one only for a tenth more speed
ROUNDS = 4  # alternating measurements of each candidate, of which the best counts
ROUND_SECONDS = 0.15  # shortest length of one measurement
TRIAL_SHARE = 4  # a trial has at least a batch divided by this: fewer images would weigh what each
# update costs once, such as the gradients of wide layers, above what each image costs

# Parameters of mallopt, from malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

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


def plain_policy(device: str) -> Policy:
    """The device of that name with fp32 and all cores, which is always right, if not fastest."""
    return Policy(find_device(device), "fp32", "contiguous", available_threads())


def choose_policy(
    settings: Hardware,
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    cache: Path,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Policy, str]:
    """Fill in what is `auto`, by measuring training steps on inputs of `shape` (N C H W).

    What was measured is remembered in `cache` per (network, shape, machine, versions, settings),
    so that the same command gives the same bits again. Returns the policy and where it is from.
    """
    plain = plain_policy(settings.device).under(settings)
    formats = _formats(plain, settings)
    if len(formats) == len(_thread_counts(plain, settings)) == 1:
        return plain, "as set"
    key = json.dumps([name, shape, machine(plain.device), asdict(settings)], sort_keys=True)
    remembered = cache / "policies" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if known := _remembered(remembered):
        return known, "remembered"
    say("measuring precision, layout and threads, once for this network and machine")
    plain.apply()  # cuBLAS reads its setting when it is first used, which is now
    times: dict[str, float] = {}
    trial = (_trial_size(plain, build, shape), *shape[1:])
    policy = _fastest(formats, build, trial, times)
    policy = _fastest(_thread_counts(policy, settings), build, trial, times)
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        record = {"key": json.loads(key), "policy": asdict(policy), "seconds": times}
        replace_file(remembered, json.dumps(record, indent=1).encode())
    except OSError as error:
        return policy, f"measured, not remembered ({remembered.parent}: {error.strerror})"
    return policy, "measured"


def _remembered(path: Path) -> Policy | None:
    """What was measured earlier, None if nothing legible is there: then it is measured again."""
    try:
        return Policy(**json.loads(path.read_bytes())["policy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _formats(plain: Policy, settings: Hardware) -> list[Policy]:
    """The plain policy first, then every precision and layout that `auto` may become."""
    precisions = [plain.precision]
    if settings.precision == "auto" and _has_bf16(plain.device):
        precisions.append("bf16")
    layouts = [plain.layout] + ["channels_last"] * (settings.layout == "auto")
    return [replace(plain, precision=p, layout=m) for p in precisions for m in layouts]


def _thread_counts(best: Policy, settings: Hardware) -> list[Policy]:
    """All cores first, then half of them: small networks may gain from fewer."""
    if settings.threads or best.device != "cpu" or best.threads == 1:
        return [best]
    return [best, replace(best, threads=best.threads // 2)]


def _has_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without the instructions the format is emulated, and slower than fp32.
    return device == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fastest(
    candidates: list[Policy],
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    times: dict[str, float],
) -> Policy:
    """The first candidate unless another is clearly faster; adds best seconds to `times`."""
    if len(candidates) == 1:
        return candidates[0]
    steps = [_training_step(policy, build, shape) for policy in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(ROUNDS):
        for step, measured in zip(steps, seconds, strict=True):
            interrupt.check()
            measured.append(_time(step))
    # What else runs on the machine can only slow a step down, so the best says most.
    least = [min(measured) for measured in seconds]
    for policy, value in zip(candidates, least, strict=True):
        times[f"{policy.precision} {policy.layout} {policy.threads} threads"] = round(value, 6)
    best = min(range(len(candidates)), key=least.__getitem__)
    return candidates[best if least[0] > CLEAR_GAIN * least[best] else 0]


def _trial_size(
    policy: Policy, build: Callable[[], nn.Module], shape: tuple[int, int, int, int]
) -> int:
    """As many images as a plain step computes in one round, but no small share of a batch."""
    few = min(4, shape[0])
    seconds = _time(_training_step(policy, build, (few, *shape[1:])))
    return min(shape[0], max(shape[0] // TRIAL_SHARE, int(few * ROUND_SECONDS / seconds), few))


def _training_step(
    policy: Policy, build: Callable[[], nn.Module], shape: tuple[int, int, int, int]
) -> Callable[[], None]:
    """A forward and backward pass under `policy`, warmed up."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = policy.place(build())
        images = policy.arrange(torch.rand(shape, device=policy.device))
        labels = torch.zeros(shape[0], dtype=torch.int64, device=policy.device)

    def step() -> None:
        torch.set_num_threads(policy.threads)
        with policy.autocast():
            outputs = model(images)
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        if policy.device.startswith("cuda"):
            torch.cuda.synchronize()

    _time(step)
    return step


def _time(step: Callable[[], None]) -> float:
    with torch.random.fork_rng():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start


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
