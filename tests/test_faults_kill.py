"""Training that is killed, told to stop, or started twice ends with the very same bits."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepcnn.recipes import RECIPES
from deepcnn.settings import flat
from faults import (
    PATIENCE,
    SMALL,
    Settings,
    arguments_of,
    assert_whole,
    digest,
    last_step,
    leftovers,
    server,
    wait_until,
    write_images,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

STEPS = 24  # 80 images in batches of 10, three epochs
STEPS_PER_EPOCH = 8
LANES = 2  # runs at the same time
MOST_KILLS = 5
SECOND_TRAINER_SECONDS = 2.0

CASES: dict[str, Settings] = {
    "saved after every update": {"train.checkpoint_seconds": 0, "train.ema": 0.9},
    "saved now and then": {
        "train.checkpoint_seconds": 0.05,
        "train.accumulate": 3,
        "train.test_each_epoch": True,
        "optim.name": "adamw",
        "optim.lr": 0.003,
    },
    "saved after every epoch": {"train.ema": 0.9},
    "a sprint": {
        **{
            key: value
            for key, value in flat(RECIPES["fashion-mnist-93"]()).items()
            if key.startswith(("model.", "augment.", "optim.")) and value not in ((), "")
        },
        "data.views": "flip",
        "train.hardest": 0.5,
        "train.epochs": 5,
        "train.checkpoint_seconds": 0.02,
    },
}


@dataclass(frozen=True)
class Twin:
    """A run that nothing happened to."""

    settings: Settings
    digest: dict[str, str]
    seconds: float


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Twin]:
    folder = tmp_path_factory.mktemp("twins")
    images = write_images(folder / "images")

    def train(case: str) -> Twin:
        settings = SMALL | {"data.name": str(images), "model.name": "compact"} | CASES[case]
        child = server().run(arguments_of(settings, folder / case), folder / f"{case}.txt")
        assert child.code == 0, child.said()
        return Twin(settings, digest(folder / case), child.seconds)

    server().run(["--version"], folder / "version.txt")  # the server's start is not measured
    with ThreadPoolExecutor(LANES) as lanes:
        return dict(zip(CASES, lanes.map(train, CASES), strict=True))


def assert_finishes(run: Path, twin: Twin, story: object = "") -> None:
    """The same command again ends in the same bits, and tidies up."""
    child = server().run(arguments_of(twin.settings, run), run.with_suffix(".txt"))
    # A run that had finished before it was killed says so and stays as it is.
    finished = child.code == 2 and "holds a finished run" in child.said()
    assert child.code == 0 or finished, f"{story}: {child.said()}"
    assert digest(run) == twin.digest, f"{story}: other bits"
    assert not leftovers(run), f"{story}: {leftovers(run)}"


def kill_chain(run: Path, twin: Twin, seed: str) -> Counter[str]:
    """Kill a run at up to five random instants, then let it finish; returns what was hit."""
    chance = random.Random(seed)
    story, hits = [], Counter[str]()
    for _ in range(chance.randint(1, MOST_KILLS)):
        # Progress is counted off, so that later kills do not come after the end.
        left = twin.seconds * (1 - 0.9 * last_step(run) / STEPS)
        story.append(round(chance.uniform(0, left), 4))
        child = server().start(arguments_of(twin.settings, run), run.with_suffix(".txt"))
        time.sleep(max(0.0, story[-1] - (time.monotonic() - child.began)))
        child.kill()
        child.wait()
        assert_whole(run)
        hits[phase_of_death(run)] += 1
    assert_finishes(run, twin, f"seed {seed}, killed after {story} s")
    return hits


def phase_of_death(run: Path) -> str:
    if (run / "model").exists():
        return "finished"
    if not (run / "environment.json").exists():
        return "start-up"
    return "saving" if leftovers(run) else "training or evaluation"


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [30, pytest.param(300, marks=pytest.mark.soak)])
def test_killed_at_random_instants(
    number: int, twins: dict[str, Twin], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = list(CASES)

    def chain(index: int) -> Counter[str]:
        case = cases[index % len(cases)]
        return kill_chain(tmp_path / f"run-{index}", twins[case], f"{number} {index} {case}")

    with ThreadPoolExecutor(LANES) as lanes:
        hits = sum(lanes.map(chain, range(number)), Counter[str]())
    with capsys.disabled():
        print(f"\n{number} chains, {hits.total()} kills: {dict(hits)}")
    assert hits["saving"] and hits["training or evaluation"], hits


# The number of the call within a phase that gets the signal, and the updates made by then.
MOMENTS = {
    "start-up": {1: 0, 2: 0},
    "training": {call: call for call in range(1, STEPS + 1)},
    # After each epoch, then test and validation images by the finished model.
    "evaluation": {call: min(call * STEPS_PER_EPOCH, STEPS) for call in range(1, 6)},
    "saving": {call: call * STEPS_PER_EPOCH for call in range(1, 4)},
}
GATE = {"start-up": 1, "training": 11, "evaluation": 2, "saving": 3}
BOTH = (signal.SIGINT, signal.SIGTERM)


def drawn(phase: str) -> list[int]:
    """Calls for 20 repetitions."""
    chance = random.Random(phase)
    return [chance.choice(list(MOMENTS[phase])) for _ in range(20)]


def moments() -> list[Any]:
    gate: list[Any] = [
        pytest.param(phase, GATE[phase], number) for phase in MOMENTS for number in BOTH
    ]
    return gate + [
        pytest.param(phase, call, number, marks=pytest.mark.soak, id=f"{phase}-{index}-{number}")
        for phase in MOMENTS
        for index, call in enumerate(drawn(phase))
        for number in BOTH
    ]


@pytest.mark.parametrize(("phase", "call", "number"), moments())
def test_signal_stops_after_a_checkpoint(
    phase: str, call: int, number: int, twins: dict[str, Twin], tmp_path: Path
) -> None:
    twin, run = twins["saved after every epoch"], tmp_path / "a run"
    arguments = arguments_of(twin.settings, run)
    child = server().run(arguments, tmp_path / "first.txt", "send signals", phase, call, number)
    assert child.code == 128 + number, child.said()
    step = MOMENTS[phase][call]
    assert last_step(run) == step
    assert_whole(run)
    assert not leftovers(run)
    where = f"at step {step} of {STEPS}; " if step else "; "
    assert f"{where}continue with: {shlex.join(['deepcnn', *arguments])}\n" in child.said()
    assert_finishes(run, twin)


def test_signal_while_a_run_is_taken_up_again(twins: dict[str, Twin], tmp_path: Path) -> None:
    twin, run = twins["saved after every epoch"], tmp_path / "run"
    for phase, call in (("training", 5), ("start-up", 2), ("training", 1)):
        arguments, out = arguments_of(twin.settings, run), tmp_path / "out.txt"
        child = server().run(arguments, out, "send signals", phase, call, signal.SIGTERM)
        assert child.code == 128 + signal.SIGTERM
    assert last_step(run) == 6
    assert_finishes(run, twin)


@pytest.mark.parametrize("phase", ["training", "evaluation", "saving"])
@pytest.mark.parametrize("number", BOTH)
def test_second_signal_stops_at_once_without_harm(
    phase: str, number: int, twins: dict[str, Twin], tmp_path: Path
) -> None:
    twin, run = twins["saved after every epoch"], tmp_path / "run"
    preparation = ("send signals", phase, GATE[phase], number, number)
    child = server().run(arguments_of(twin.settings, run), tmp_path / "first.txt", *preparation)
    assert child.code == -number
    assert "Traceback" not in child.said()
    assert_whole(run)
    assert_finishes(run, twin)


@pytest.mark.parametrize(
    "call", [5, *(pytest.param(call, marks=pytest.mark.soak) for call in range(1, 21))]
)
def test_second_trainer_is_refused(call: int, twins: dict[str, Twin], tmp_path: Path) -> None:
    twin, run = twins["saved after every update"], tmp_path / "run"
    arguments = arguments_of(twin.settings, run)
    pause = ("wait there", "training", call, str(tmp_path))
    first = server().start(arguments, tmp_path / "first.txt", *pause)
    wait_until((tmp_path / "reached").exists)
    others = [server().run(arguments, tmp_path / "second.txt") for _ in range(3)]
    (tmp_path / "go").touch()
    assert all(other.code == 2 for other in others)
    assert "in use by another training process" in others[-1].said()
    # The quickest of three, because the machine may be busy with something else.
    assert min(other.seconds for other in others) < SECOND_TRAINER_SECONDS
    assert first.wait().code == 0
    assert digest(run) == twin.digest


def test_command_that_is_shown_continues_the_run(twins: dict[str, Twin], tmp_path: Path) -> None:
    """The installed command in a process of its own, nothing prepared."""
    twin, run = twins["saved after every update"], tmp_path / "run"
    program = str(Path(sys.executable).with_name("deepcnn"))
    first = subprocess.Popen(
        [program, *arguments_of(twin.settings, run)], stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: last_step(run))
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 128 + signal.SIGINT, said
    assert 0 < last_step(run) < STEPS
    shown = said.rpartition("continue with: ")[2]
    subprocess.run(shown, shell=True, check=True, capture_output=True, timeout=PATIENCE)
    assert digest(run) == twin.digest
