"""The run folder: who may write in it, what it says about its run, and the record of events."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepcnn.config import Config
from deepcnn.device import Policy
from deepcnn.errors import RunError
from deepcnn.files import remove_staging, replace_file
from deepcnn.settings import flat, from_dict

# Settings that may differ between the parts of a run: they have no effect on the weights.
NEUTRAL_SETTINGS = {"data.root", "train.checkpoint_seconds"}

# Facts that are measured; all others are the same in every repetition of a run.
MEASURED_FIELDS = {
    "seconds", "images_per_second", "peak_memory", "progress", "used", "phases", "bottleneck",
    "forecast",
}  # fmt: skip


@contextmanager
def opened(run: Path) -> Iterator[None]:
    """Hold the run folder for one process; make it if need be and prove that it can be written."""
    import filelock

    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file, expected a folder: give another one with --out")
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    untouched = not (run / "lock").exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(run / "lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(
            f"{run} is in use by another training process: wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise RunError(
            f"cannot write in {run}: {error.strerror}; give another folder with --out"
        ) from error
    try:
        for folder in (run, run / "checkpoints"):
            with suppress(OSError):  # a disk that fails will say so where it matters
                remove_staging(folder)
        yield
    finally:
        if untouched and not is_begun(run):
            _remove_unused(run, missing)
        lock.release()


def begin(run: Path, config: Config, machine: Mapping[str, Any]) -> None:
    """Write down what is going to be done, and where."""
    try:
        replace_file(run / "config.json", _json(asdict(config)))
        replace_file(run / "environment.json", _json({**environment(), **machine}))
    except OSError as error:
        raise RunError(
            f"cannot write in {run}: {error.strerror}; make room or give another --out"
        ) from error


def _remove_unused(run: Path, made: list[Path]) -> None:
    """Take back the folders that were made for a run which was never begun."""
    with suppress(OSError):  # somebody else has put something there
        (run / "lock").unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def is_begun(run: Path) -> bool:
    """Whether a run was begun in this folder."""
    return (run / "environment.json").exists()


def is_finished(run: Path) -> bool:
    """Whether the folder holds a finished model."""
    return (run / "model" / "manifest.json").exists()


def recorded_config(run: Path) -> Config:
    """The configuration that a run was begun with; RunError if it cannot be read."""
    path = run / "config.json"
    try:
        return from_dict(_read_json(path), str(path))
    except (AttributeError, TypeError) as error:
        raise _not_ours(path, error) from error


def recorded_conditions(run: Path) -> tuple[Policy, dict[str, Any], str]:
    """The device policy, machine and data fingerprint that a run was begun with."""
    path, facts = run / "environment.json", recorded_environment(run)
    try:
        return Policy(**facts["policy"]), dict(facts["machine"]), str(facts["data_fingerprint"])
    except (LookupError, TypeError, ValueError) as error:
        raise _not_ours(path, error) from error


def recorded_environment(run: Path) -> dict[str, Any]:
    """Where and how a run was begun; RunError if it cannot be read."""
    path = run / "environment.json"
    try:
        return dict(_read_json(path))
    except (TypeError, ValueError) as error:
        raise _not_ours(path, error) from error


def recorded_events(run: Path) -> list[dict[str, Any]]:
    """The events so far, none before the first; RunError if they cannot be read."""
    path = run / "events.jsonl"
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        # A line that does not end yet is being written by a run still going.
        events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    except (OSError, ValueError) as error:
        raise _not_ours(path, error) from error
    for each in events:
        if not isinstance(each, dict) or "event" not in each:
            raise _not_ours(path, TypeError(f"{each!r:.80} is no event"))
    return events


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_ours(path, error) from error


def _not_ours(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} is not what `deepcnn train` wrote ({error}): restore a copy, or train again into "
        "another folder"
    )


def differences(before: Config, now: Config) -> list[str]:
    """Settings that would change the outcome of a run if it were continued."""
    old, new = flat(before), flat(now)
    return [
        f"{key}: {old[key]} then, {new[key]} now"
        for key in old
        if old[key] != new[key] and key not in NEUTRAL_SETTINGS
    ]


class EventLog:
    """`events.jsonl`, one JSON object a line, in step with the list that checkpoints carry."""

    def __init__(self, run: Path, events: list[dict[str, Any]]) -> None:
        self.path = run / "events.jsonl"
        self.events = events
        self.complete = False  # whether the file holds all events but the newest

    def append(self, event: dict[str, Any]) -> OSError | None:
        """Record an event; what the disk refuses is written with the next one, or by `catch_up`."""
        self.events.append(event)
        if not self.complete:
            return self.catch_up()
        try:
            with self.path.open("ab") as file:
                file.write(_line(event))
        except OSError as error:
            self.complete = False
            return error
        return None

    def catch_up(self) -> OSError | None:
        """Write the whole file anew, unless it is complete."""
        try:
            if not self.complete:
                replace_file(self.path, b"".join(map(_line, self.events)))
                self.complete = True
        except OSError as error:
            return error
        return None


def environment() -> dict[str, Any]:
    """Versions, machine and commit, for the record."""
    packages = ("deepcnn", "torch", "numpy", "safetensors", "pillow")
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "platform": platform.platform(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with `+` if it has been changed."""
    folder = Path(__file__).parent
    if not (folder.parents[1] / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _json(value: Any) -> bytes:
    # The odd bytes of a name that is no legal text become escapes, which JSON gives back.
    return json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace")


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
