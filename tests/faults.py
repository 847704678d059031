"""What the fault tests share: small data, a small network, digests of runs, runs to be killed.

Started as a program (`python faults.py DESCRIPTOR`) it imports everything once and then forks a
child for each run that it is asked for: a start costs milliseconds, and so does a chain of kills.
"""

import atexit
import ctypes
import functools
import gzip
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import cli, curves, evaluate, files, finish, models, runlog
from deepcnn.bench import limits
from deepcnn.config import Config
from deepcnn.data import catalog
from deepcnn.data.loader import Source
from deepcnn.models.card import Card, Landmark
from deepcnn.recipes import RECIPES
from deepcnn.settings import override
from deepcnn.train import fit

NUM_CLASSES = 3
PATIENCE = 120.0  # seconds for what takes one on an idle machine
# Not compared: clocks, how the run was called, from which checkout, and settings without effect.
NOT_COMPARED = runlog.MEASURED_FIELDS | {"command", "commit"}
NOT_COMPARED |= {name.rpartition(".")[2] for name in runlog.NEUTRAL_SETTINGS}

Settings = dict[str, object]
SMALL: Settings = {
    "model.name": "mini",
    "data.validation": 16,
    "augment.flip": "random",
    "augment.crop": 2,
    "optim.lr": 0.05,
    "optim.schedule": "triangular",
    "optim.warmup": 0.2,
    "optim.weight_decay": 5e-4,
    "train.epochs": 3,
    "train.batch_size": 10,
    "train.checkpoint_seconds": 1e6,
    "hardware.device": "cpu",
    "hardware.precision": "fp32",
    "hardware.layout": "contiguous",
    "hardware.threads": 1,
}


class Mini(nn.Module):
    """Few parameters, and all that can go wrong: batch statistics, dropout, layouts that differ."""

    def __init__(self, num_classes: int = NUM_CLASSES, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, kernel_size=3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, kernel_size=3)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C H W
        x = F.relu(self.norm(F.max_pool2d(self.conv1(images), 2)))  # N 4 H/2 W/2
        x = self.conv2(x).amax((2, 3))  # N 6
        logits: Tensor = self.output(self.dropout(F.relu(x)))
        return logits  # N num_classes


MINI = Landmark(Mini, Card("for tests", 2026, "none", (1, 12), NUM_CLASSES))


def write_images(folder: Path, num_train: int = 96, num_test: int = 24, side: int = 12) -> Path:
    """Write a data set in the IDX layout: in noise a bright band, at a height that is the class."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, number in (("train", num_train), ("t10k", num_test)):
        labels = np.arange(number, dtype=np.uint8) % NUM_CLASSES
        images = generator.integers(0, 60, (number, side, side), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            start = int(label) * side // NUM_CLASSES
            image[start : start + side // NUM_CLASSES] += 150
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)
    return folder


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def config_of(settings: Mapping[str, object]) -> Config:
    """What the command line makes of them."""
    return override(RECIPES["fashion-mnist"](), settings, "test")


def arguments_of(settings: Mapping[str, object], out: Path, *more: str) -> list[str]:
    """The command line for the same run."""
    return ["train", "--out", str(out), *options_of(settings), *more]


def options_of(settings: Mapping[str, object]) -> list[str]:
    """They as options of a command."""
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def call(*arguments: object) -> int:
    """The exit code of a command run in this process, which is left as it was."""
    with prepared(), torch_restored(), signals_restored(), pytest.raises(SystemExit) as stop:
        torch.set_num_threads(1)
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def train_here(settings: Mapping[str, object], run: Path, accept_change: bool = False) -> None:
    """Train in this process, which is left as it was."""
    with prepared(), torch_restored():
        fit(config_of(settings), run, run.parent / "cache", accept_change)


@contextmanager
def prepared() -> Iterator[None]:
    """Know the small network, and save time: draw no picture, write no report, and do not ask git
    for the commit.
    """
    with (
        mock.patch.dict(models.MODELS, {"mini": MINI}),
        mock.patch.object(curves, "learning_curve", no_picture),
        mock.patch.object(finish, "write_report", no_report),
        mock.patch.object(runlog, "_commit", lambda: None),
    ):
        yield


def no_picture(_events: object, path: Path) -> None:
    files.replace_file(path, b"no picture")


def no_report(run: Path, *_: object) -> None:
    files.replace_file(run / "report.html", b"no report")


@contextmanager
def torch_restored() -> Iterator[None]:
    """Undo what a run sets for its process."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def tiny_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What measures the machine's peaks takes no time, and its peaks mean nothing."""
    monkeypatch.setattr(limits, "CONVOLUTION", (2, 8, 8, 4))
    monkeypatch.setattr(limits, "PRODUCT", 16)
    monkeypatch.setattr(limits, "COPY_BYTES", 1 << 12)


@contextmanager
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def outcome(run: Path) -> dict[str, str]:
    """SHA-256 of what a finished run is for: the model, its results, and how they came about."""
    model = files.read_folder(run / "model")
    return {
        "model weights": sha256(model["weights.safetensors"]),
        "model meta": sha256(comparable(json.loads(model["meta.json"]))),
        "events": sha256(comparable(read_events(run))),
    }


def digest(run: Path) -> dict[str, str]:
    """SHA-256 of each part of a finished run that must be what the uninterrupted twin has."""
    last = files.read_folder(checkpoints(run)[-1])
    return outcome(run) | {
        "last weights": sha256(last["weights.safetensors"]),
        "last optimiser and average": sha256(last["state.safetensors"]),
        "last meta": sha256(comparable(json.loads(last["meta.json"]))),
        "config": sha256(comparable(json.loads((run / "config.json").read_bytes()))),
        "environment": sha256(comparable(json.loads((run / "environment.json").read_bytes()))),
    }


def sha256(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def comparable(value: Any) -> Any:
    """`value` from JSON without the fields that may differ between twins, at any depth."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in NOT_COMPARED}
    return value


def read_events(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def last_step(run: Path) -> int:
    """Updates in the newest checkpoint, 0 if there is none."""
    return max((int(place.name.removeprefix("step-")) for place in checkpoints(run)), default=0)


def leftovers(run: Path) -> list[str]:
    """Staged files and folders, which nobody will ever finish when the run has ended."""
    return [str(path.relative_to(run)) for path in run.rglob(f"{files.STAGING_PREFIX}*")]


def assert_whole(run: Path) -> None:
    """Whatever stands under a final name is complete and undamaged."""
    for folder in [*checkpoints(run), *run.glob("model")]:
        files.read_folder(folder)
    for path in run.glob("*.json"):
        json.loads(path.read_bytes())


def at_call(
    owner: object, name: str, number: int, action: Callable[[], None], patch: Any = setattr
) -> None:
    """Have `action` done at the beginning of call `number`, from 1, of `owner.name`."""
    original, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            action()
        return original(*args, **kwargs)

    patch(owner, name, wrapper)


# A function called in this phase only: in start-up once for each split, in training once for each
# piece of a batch, in evaluation once for each set, in saving once before the final rename.
PHASES: dict[str, tuple[object, str]] = {
    "start-up": (catalog, "load"),
    "training": (torch.Tensor, "backward"),
    "evaluation": (evaluate, "in_order"),
    "saving": (files, "read_folder"),
}


def send_signals(phase: str, number: int, *signals: int) -> None:
    """Prepare to get `signals`, one after the other, in a phase."""

    def send() -> None:
        for each in signals:
            signal.raise_signal(each)

    at_call(*PHASES[phase], number, send)


def wait_there(phase: str, number: int, folder: str) -> None:
    """Prepare to say in `folder` that the phase has been reached, and to wait there for `go`."""

    def wait() -> None:
        Path(folder, "reached").touch()
        wait_until(Path(folder, "go").exists)

    at_call(*PHASES[phase], number, wait)


def limit_files(num_bytes: int) -> None:
    """Prepare to be unable to write files larger than that, once training has begun."""
    limits = (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    at_call(*PHASES["training"], 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def small_disk(folder: str, num_bytes: int, copy: str, more_at: int = 0) -> Callable[[], object]:
    """Prepare to find `folder` on a disk of that size, which has ten times as much room from
    update `more_at` on; its content outlives this process as `copy` (Linux).
    """
    new_namespaces, remount = 0x10000000 | 0x00020000, 32  # linux/sched.h, linux/mount.h
    libc = ctypes.CDLL(None, use_errno=True)
    ids = os.getuid(), os.getgid()
    assert libc.unshare(new_namespaces) == 0, os.strerror(ctypes.get_errno())
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
        Path("/proc/self", name).write_text(f"0 {number} 1")

    def mount(flags: int, size: int) -> None:
        made = libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, f"size={size}".encode())
        assert made == 0, os.strerror(ctypes.get_errno())

    mount(0, num_bytes)
    at_call(*PHASES["training"], more_at, lambda: mount(remount, 10 * num_bytes))
    return lambda: shutil.copytree(folder, copy)


def spoil_images(number: int, patch: Any = setattr) -> None:
    """Prepare to train batch `number`, from 1, on pixels that are not numbers."""
    original, calls = Source.batches, itertools.count(1)

    def batches(source: Source, groups: Iterable[Tensor], *training: Any) -> Iterator[Any]:
        for result in original(source, groups, *training):
            if any(training) and next(calls) == number:
                result.images.fill_(float("nan"))
            yield result

    patch(Source, "batches", batches)


# Done in the process of the command before it begins; what is returned is done after its end.
PREPARATIONS: dict[str, Callable[..., Callable[[], object] | None]] = {
    "send signals": send_signals,
    "wait there": wait_there,
    "limit files": limit_files,
    "small disk": small_disk,
    "spoil images": spoil_images,
}


def stop_early(settings: Mapping[str, object], run: Path, updates: int) -> None:
    """Leave a run as a kill after that many updates would."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_call(*PHASES["training"], updates + 1, _raise_keyboard_interrupt, patch.setattr)
        train_here(settings, run)


def _raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


class Child:
    """A `deepcnn` command in a process group of its own, forked by the server."""

    code: int  # exit code, or minus the number of the signal that ended it
    seconds: float

    def __init__(self, connection: socket.socket, output: Path) -> None:
        self.began = time.monotonic()
        self.output = output
        self._connection = connection
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group, if it is still there."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self) -> "Child":
        """Wait for the end; no process may outlive the command."""
        end = json.loads(self._answers.readline())
        self.code, self.seconds = end["code"], time.monotonic() - self.began
        self._answers.close()
        self._connection.close()
        assert not end["orphans"], f"processes of group {self.pid} outlived the command"
        return self

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.output.read_text(encoding="utf-8")


class Server:
    """A process that has imported everything and forks a child for each command."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        # One thread each, because a process that has several should not fork.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environment,
            )  # fmt: skip

    def start(self, arguments: list[str], output: Path, *preparation: object) -> Child:
        """Run `deepcnn` with `arguments`; what it prints goes to the file `output`."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with theirs:
            socket.send_fds(self._channel, [b"x"], [theirs.fileno()])
        request = {"arguments": arguments, "output": str(output), "preparation": preparation}
        ours.sendall(json.dumps(request).encode() + b"\n")
        return Child(ours, output)

    def run(self, arguments: list[str], output: Path, *preparation: object) -> Child:
        """The same, and wait for its end."""
        return self.start(arguments, output, *preparation).wait()

    def close(self) -> None:
        self._channel.close()
        self._process.wait(PATIENCE)


@functools.cache
def server() -> Server:
    """The one server of this test process."""
    one = Server()
    atexit.register(one.close)
    return one


def serve(channel: socket.socket) -> None:
    """Fork a keeper for every connection that is handed over, until the channel closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    models.MODELS["mini"] = MINI
    finish.write_report = no_report
    warm_up()
    while True:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                channel.close()
                keep(connection)


def warm_up() -> None:
    """Do once what makes torch and matplotlib import a thousand modules, without a thread."""
    models.check_input("mini", NUM_CLASSES, 1, 12)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        epoch = {"event": "epoch", "epoch": 1, "train_accuracy": 0.5}
        curves.learning_curve([epoch], Path(folder, "picture.png"))


def keep(connection: socket.socket) -> NoReturn:
    """Run one command in a child; say how it ended and whether it left processes behind."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    adopt_orphans()
    request = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        connection.close()
        run_command(request)
    with suppress(PermissionError, ProcessLookupError):  # the child has done it
        os.setpgid(child, child)
    with suppress(BrokenPipeError):
        connection.sendall(f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end = {"code": code, "orphans": outlived(child)}
        connection.sendall(json.dumps(end).encode() + b"\n")
    os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, in order to bury them (Linux)."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # linux/prctl.h
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def outlived(group: int, seconds: float = 5.0) -> bool:
    """Whether a process of the group is alive that long after its first one's end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.001)
    return True


def run_command(request: dict[str, Any]) -> NoReturn:
    """Be the command: `deepcnn` with the arguments and the preparation of the request."""
    code: Any = 1
    clear_up: Callable[[], object] | None = None
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["deepcnn", *request["arguments"]]
        if request["preparation"]:
            name, *values = request["preparation"]
            clear_up = PREPARATIONS[name](*values)
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    if clear_up:
        clear_up()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
