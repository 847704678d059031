"""A run within a time budget: what is planned, on a simulated clock, and real runs that end."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcnn import ahead, budget, interrupt, models, preflight, train
from deepcnn.budget import Pace, advance
from deepcnn.data.loader import Source
from deepcnn.device import Policy
from deepcnn.errors import ConfigError, Interrupted
from deepcnn.evaluate import evaluate_run
from deepcnn.forecast import time as forecast_time
from deepcnn.optim import lr_factor
from deepcnn.rehearsal import rehearse
from deepcnn.report.document import document
from deepcnn.words import result_in_words
from faults import (
    MINI,
    SMALL,
    Settings,
    arguments_of,
    at_call,
    call,
    checkpoints,
    config_of,
    last_step,
    leftovers,
    prepared,
    read_events,
    signals_restored,
    torch_restored,
    train_here,
    write_images,
)

# The text of a budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), (".5m", 30), ("2.s", 2), (" 30s ", 30)],
)
def test_lengths(text: str, expected: float) -> None:
    assert budget.seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "10", "10x", "0s", "0.0h", "-3m", "s", "1e3s", "1 m", "10M", "nan", "infs", "1m30s", "٣s",
     "9" * 400 + "s"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget is .* such as 90s, 10m or 1\.5h"):
        budget.seconds(text)


@given(st.text(max_size=8))
def test_any_text_is_a_length_or_refused(text: str) -> None:
    try:
        assert 0 < budget.seconds(text) < math.inf
    except ConfigError as error:
        assert repr(text) in str(error)


# The plan, on a clock that only the simulation moves


@dataclass
class World:
    """What really happens: seconds of each update by the time, of pauses and of the end."""

    budget: float
    start: float
    update: Callable[[float], float]
    pause: float
    end: float
    per_epoch: int

    def foreseen(self, update: float, end: float) -> Pace:
        """The pace as a rehearsal tells it, which may be wrong by these factors."""
        return Pace(
            budget=self.budget, update=update * self.update(0), pause=self.pause, began=0,
            end=end * self.end, image=1e-3, end_images=0, save=0.0, save_every=60,
        )  # fmt: skip

    def run(self, pace: Pace) -> tuple[float, list[float]]:
        """Seconds used in the end, and the progress in the middle of each update."""
        now, step, progress, middles = self.start, 0, 0.0, []
        while progress < 1:
            if step and step % self.per_epoch == 0:
                now += self.pause
            pace.learn(now, step // self.per_epoch, 0.0, pace.total - step)
            left = pace.updates_left(now, self.per_epoch - step % self.per_epoch, self.per_epoch)
            pace.total = step + left
            middle, progress = advance(progress, left)
            middles.append(middle)
            now, step = now + self.update(now), step + 1
        return now + self.pause + self.end, middles


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Some tens of updates or more, which at some time become up to three times as slow or fast."""
    total = draw(st.sampled_from([30.0, 120.0, 600.0]))
    begin = draw(st.floats(0.02, 0.3))
    end = draw(st.floats(0.01, 0.15))
    first = total * draw(st.sampled_from([0.0005, 0.002, 0.004]))
    factor = draw(st.sampled_from([1 / 3, 0.5, 1.0, 2.0, 3.0]))
    when = total * draw(st.floats(0.1, 0.7))
    noise = draw(st.sampled_from([0.0, 0.2]))
    generator = np.random.default_rng(draw(st.integers(0, 9)))

    def update(now: float) -> float:
        expected = first * (factor if now > when else 1)
        return expected * float(1 + noise * generator.uniform(-1, 1))

    per_epoch = draw(st.sampled_from([7, 100, 100_000]))
    # Evaluation is cheaper than the training of an epoch, and than a twentieth of the budget.
    pause = min(per_epoch * first / 5, total / 20) * draw(st.floats(0, 1))
    return World(total, begin * total, update, pause, end * total, per_epoch)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.floats(0.3, 3), st.floats(0.9, 1.1))
def test_it_ends_in_time_and_not_early(world: World, guess: float, end: float) -> None:
    used, middles = world.run(world.foreseen(guess, end))
    assert 0.85 * world.budget <= used <= 1.05 * world.budget
    assert all(a < b for a, b in pairwise(middles))
    assert middles[-1] < 1


def loaded(factor: float, hiccup: float = 0.0) -> World:
    """A minute of updates of a tenth of a second, slower by a factor from half-way; one of them
    takes a `hiccup` longer.
    """

    def update(now: float) -> float:
        extra = hiccup if 20 <= now < 20.1 else 0
        return 0.1 * (factor if now > 30 else 1) + extra

    return World(60, 3, update, pause=1, end=3, per_epoch=100)


def test_without_learning_it_would_be_late() -> None:
    """What the tests here would notice."""
    world = loaded(3)
    with mock.patch.object(Pace, "see_update"):
        used, _ = world.run(world.foreseen(update=1 / 3, end=1))
    assert used > 1.05 * world.budget or used < 0.85 * world.budget


@pytest.mark.parametrize(("factor", "hiccup"), [(1, 0), (3, 0), (0.3, 0), (1, 3)])
def test_progress_goes_on_smoothly(factor: float, hiccup: float) -> None:
    """Whatever happens, no update takes the run much further than the one before."""
    world = loaded(factor, hiccup)
    _, middles = world.run(world.foreseen(1, 1))
    shares = np.diff(middles)[5:-3]
    assert len(shares) > 100
    assert np.max(shares[1:] / shares[:-1]) < 1.6
    assert np.min(shares[1:] / shares[:-1]) > 1 / 1.6


def test_pauses_are_planned_for() -> None:
    """Ten seconds are room for these, counted by hand: 3 updates, then twice a pause and 4 more,
    then a pause and 2 more."""
    pace = Pace(
        budget=100, update=0.5, pause=1.0, end=4.0, image=0.0, end_images=0, save=0, save_every=60,
        began=0, num_seen=9,
    )  # fmt: skip
    after = 0.01 * 100 + 1.25 * 5  # what is kept back, and all that follows
    used = 100 - after - (3 * 0.5 + 2 * (1 + 4 * 0.5) + 1 + 2 * 0.5) - 1e-6
    assert pace.updates_left(used, in_epoch=3, per_epoch=4) == 3 + 8 + 2
    assert pace.updates_left(used + 1.5, 3, 4) == 3 + 8  # and half a second that nothing fits in
    assert pace.updates_left(used + 8.6, 3, 4) == 1
    assert pace.updates_left(1e9, 3, 4) == 1


@pytest.mark.parametrize(
    ("update", "image", "factor"),
    [(4, None, 2), (0.25, None, 0.5), (2, 1.5, 1.5), (2, 3, 3), (2, 9, 4), (0.5, 0.7, 0.7),
     (0.5, 0.1, 0.25)],
)  # fmt: skip
def test_what_slows_updates_down_slows_evaluation(
    update: float, image: float | None, factor: float
) -> None:
    """As far as it is known not to be thawing stages."""
    pace = Pace(
        budget=100, update=update, pause=3.0, end=4.0, image=1.0, end_images=10, save=0,
        save_every=60, began=0, told=1.0,
    )  # fmt: skip
    pace.slow_down(image)
    assert pace.after() == pytest.approx(4 + factor * (3 + 10))


@pytest.mark.parametrize(
    ("budget", "seconds", "used", "is_news"),
    [(100, 4.5, 50, True), (100, 3.9, 50, False), (30, 3.9, 10, True), (200, 4.5, 50, False),
     (100, 4.5, 80, False), (100, 1, 50, False)],
)  # fmt: skip
def test_a_pause_that_matters_is_news(
    budget: float, seconds: float, used: float, is_news: bool
) -> None:
    """Where it is 1.25 times as long as expected, and by a hundredth of the budget; but at the
    end."""
    pace = Pace(
        budget=budget, update=1.0, pause=3.1, end=4.0, image=0.0, end_images=0, save=0,
        save_every=60, began=0, told=1.0,
    )  # fmt: skip
    pace.learn(10, 1, 0.0, 9)
    pace.learn(11 + seconds, 2, 0.0, 9)
    assert pace.has_news(used) == is_news


@pytest.mark.parametrize(("image", "factor"), [(None, 1.5), (2.0, 2.0)])
def test_a_long_pause_slows_evaluation_down(image: float | None, factor: float) -> None:
    """The pause itself is expected half-way to what it was."""
    pace = Pace(
        budget=100, update=1.0, pause=4.0, end=4.0, image=1.0, end_images=10, save=0,
        save_every=60, began=0, told=1.0,
    )  # fmt: skip
    pace.see_pause(9.0)
    pace.slow_down(image)
    assert pace.after() == pytest.approx(6.5 + 4 + 10 * factor)
    assert not pace.has_news(50)


@given(st.floats(0, 0.999), st.integers(1, 10**6))
def test_equal_parts_end_at_the_end(progress: float, left: int) -> None:
    middle, then = advance(progress, left)
    assert progress < middle < 1
    assert middle < then <= 1
    assert (then == 1) == (left == 1) or 1 - then < 1e-12
    assert then - progress == pytest.approx((1 - progress) / left)


# Real runs, on a clock that advances each time it is asked

BUDGET, TICK = 4.0, 0.003


class Clock:
    """`time.perf_counter` for runs that take as long on every machine."""

    def __init__(self) -> None:
        self.now = 1e4

    def __call__(self) -> float:
        self.now += TICK
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    with mock.patch("os.fsync"):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def small(images: Path, **more: object) -> Settings:
    """Eight updates an epoch; `epochs` would be far more than there is time for."""
    named = {name.replace("__", "."): value for name, value in more.items()}
    return SMALL | {
        "data.name": str(images), "train.budget": BUDGET, "train.epochs": 1, **named,
    }  # fmt: skip


def facts_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "model" / "meta.json").read_bytes())["budget"])


def rates(settings: Settings, run: Path) -> list[float]:
    """The learning rate of each update of a run."""
    found, update = [], train.make_update

    def make_update(run: Any, pieces: Any, indices: Any, lr: float) -> Any:
        found.append(lr)
        return update(run, pieces, indices, lr)

    with mock.patch.object(train, "make_update", make_update):
        train_here(settings, run)
    return found


def meta(run: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoints(run)[-1] / "meta.json").read_bytes()))


def test_a_run_ends_with_its_budget(clock: Clock, images: Path, tmp_path: Path) -> None:
    began = clock.now
    found = rates(small(images), tmp_path / "run")
    assert 0.85 * BUDGET <= clock.now - began <= 1.05 * BUDGET
    facts, saved = facts_of(tmp_path / "run"), meta(tmp_path / "run")
    assert facts["updates"] == len(found) == saved["step"] > 16
    assert facts["epochs"] == pytest.approx(len(found) / 8)
    assert facts["seconds"] == BUDGET
    assert facts["used"] <= clock.now - began
    assert saved["progress"] == 1
    # In equal parts the last rate of a triangle is a third of the one before; and it rises first.
    assert found[-1] / found[-2] == pytest.approx(1 / 3, rel=0.2)
    assert max(found) / SMALL["optim.lr"] == pytest.approx(1, rel=0.2)
    assert found[0] < 0.2 * max(found)
    assert not leftovers(tmp_path / "run")


def test_what_was_planned_is_recorded(
    clock: Clock, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(small(images), tmp_path / "run")
    events = read_events(tmp_path / "run")
    assert [each["used"] for each in events] == sorted(each["used"] for each in events)
    plans = [each for each in events if each["event"] == "plan"]
    made = facts_of(tmp_path / "run")["updates"]
    assert plans[-1]["updates"] == pytest.approx(made, rel=0.2)
    assert plans[-1]["epochs"] == pytest.approx(plans[-1]["updates"] / 8, abs=1e-3)
    said = capsys.readouterr().err
    assert re.search(r"plan for 4\.0 s, of which \d.* s are used: \d+ updates of .* epochs;", said)
    assert f"epoch {math.ceil(made / 8)}/{math.ceil(made / 8)}" in said


def test_what_became_of_it_is_told(clock: Clock, images: Path, tmp_path: Path) -> None:
    with prepared(), torch_restored():
        facts = train.fit(config_of(small(images)), tmp_path / "run", tmp_path / "cache")
        page = document([tmp_path / "run"])
    updates, used = facts["budget"]["updates"], facts["budget"]["used"]
    line = (
        f"time budget    {used:.1f} s of 4.0 s used, {updates:,} updates, {updates / 8:.2f} epochs"
    )
    assert line in result_in_words(tmp_path / "run", facts)
    assert f"of 4.0 s before this page, {updates / 8:.2f} epochs" in page


def test_less_than_an_epoch(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "many", num_train=6_000)
    train_here(small(images, optim__momentum=0.0, optim__nesterov="false"), tmp_path / "run")
    (epoch,) = [each for each in read_events(tmp_path / "run") if each["event"] == "epoch"]
    facts = facts_of(tmp_path / "run")
    assert epoch["visited"] == facts["updates"] * 10 < 5_984
    assert facts["epochs"] == pytest.approx(epoch["visited"] / 5_984, abs=1e-2)
    assert facts["epochs"] < 1
    said = capsys.readouterr().err
    assert "epochs, a part of the first;" in said
    assert f"epoch 1/1  loss {epoch['loss']:.4f} of {epoch['visited']:,} images" in said


def test_epochs_of_the_hardest_images(clock: Clock, images: Path, tmp_path: Path) -> None:
    """Eight updates, then four an epoch, of which the last may be cut short."""
    train_here(small(images, train__hardest=0.5), tmp_path / "run")
    visited = [e["visited"] for e in read_events(tmp_path / "run") if e["event"] == "epoch"]
    facts = facts_of(tmp_path / "run")
    assert visited[:-1] == [80, *[40] * (len(visited) - 2)]
    assert sum(visited) == 10 * facts["updates"]
    assert facts["epochs"] == pytest.approx(1 + (facts["updates"] - 8) / 4)


@pytest.mark.parametrize("has_run", [False, True])
def test_no_time_to_train_is_refused(
    has_run: bool, clock: Clock, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if has_run:  # somebody else's folder stays as it is
        run.mkdir()
        (run / "note").write_text("mine")
    with pytest.raises(ConfigError, match=r"0\.1 s leaves no time .* at least --budget \d+s") as no:
        train_here(small(images, train__budget=0.1), run)
    assert no.value.exit_code == 2
    assert [path.name for path in tmp_path.rglob("*") if "cache" not in str(path)] == (
        ["run", "note"] if has_run else []
    )


def test_the_command_says_so_in_a_line(
    clock: Clock, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small(images)
    del settings["train.budget"]
    assert call(*arguments_of(settings, tmp_path / "run"), "--budget", "0.1s") == 2
    assert not (tmp_path / "run").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("deepcnn: a budget of 0.1 s leaves no time to train: starting took ")


def test_the_budget_that_is_advised_will_do(clock: Clock, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as no:
        train_here(small(images, train__budget=0.1), tmp_path / "run")
    advised = budget.seconds(str(no.value).rpartition(" ")[2])
    train_here(small(images, train__budget=advised), tmp_path / "run")
    assert facts_of(tmp_path / "run")["used"] <= 1.05 * advised


# A run that is killed goes on


def stopped(settings: Settings, run: Path, number: int, how: Callable[[], Any]) -> None:
    with signals_restored(), pytest.MonkeyPatch.context() as patch:
        interrupt.install()
        at_call(torch.Tensor, "backward", number, how, patch.setattr)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            train_here(settings, run)
        interrupt.install()


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 11, 30])
def test_time_that_nothing_ran_does_not_count(
    number: int, clock: Clock, images: Path, tmp_path: Path
) -> None:
    run, began = tmp_path / "run", clock.now
    stopped(small(images), run, number, lambda: signal.raise_signal(signal.SIGTERM))
    assert last_step(run) == number  # no update is lost
    before = meta(run)
    assert before["used"] == pytest.approx(clock.now - began, abs=0.1)
    clock.now += 1e5
    found = rates(small(images), run)
    assert 0.85 * BUDGET <= clock.now - 1e5 - began <= 1.05 * BUDGET
    facts = facts_of(run)
    assert facts["updates"] == number + len(found) == meta(run)["step"]
    assert 0.85 * BUDGET <= facts["used"] <= 1.05 * BUDGET
    # It goes on from where it was: the plan of the first part is not made anew.
    first = lr_factor(config_of(SMALL).optim, before["progress"])
    assert found[0] / float(str(SMALL["optim.lr"])) == pytest.approx(first, abs=0.15)
    assert found[-1] < 0.5 * found[-2]


def test_time_since_the_last_checkpoint_counts(clock: Clock, images: Path, tmp_path: Path) -> None:
    """Killed outright, a run goes back to a checkpoint, and its clock does not."""
    run, began = tmp_path / "run", clock.now
    stopped(small(images), run, 30, die)
    passed = clock.now - began
    assert last_step(run) == 24
    assert meta(run)["used"] < read_events(run)[-1]["used"] == pytest.approx(passed, abs=0.1)
    train_here(small(images), run)
    assert 0.85 * BUDGET <= clock.now - began <= 1.05 * BUDGET
    assert facts_of(run)["used"] == pytest.approx(clock.now - began, abs=0.2)


def test_an_illegible_record_is_done_without(clock: Clock, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(small(images), run, 20, lambda: signal.raise_signal(signal.SIGTERM))
    (run / "events.jsonl").write_bytes(b"nonsense\n")
    used = meta(run)["used"]
    train_here(small(images), run)
    assert facts_of(run)["used"] > used + 0.2


@pytest.mark.parametrize("where", ["end_epoch", "finish"])
def test_killed_after_the_last_update(
    where: str, clock: Clock, images: Path, tmp_path: Path
) -> None:
    """What is left is done, and no update is made."""
    run = tmp_path / "run"
    original = getattr(train, where)

    def at_the_end(of: Any) -> Any:
        if of.is_over():
            of.save()
            die()
        return original(of)

    with mock.patch.object(train, where, at_the_end), pytest.raises(KeyboardInterrupt):
        train_here(small(images), run)
    step, passed = last_step(run), [e for e in read_events(run) if e["event"] == "epoch"]
    assert rates(small(images), run) == []
    epochs = [each for each in read_events(run) if each["event"] == "epoch"]
    assert len(epochs) == len(passed) + (where == "end_epoch") == math.ceil(step / 8)
    assert facts_of(run)["updates"] == step


def test_a_budget_that_is_used_up_ends_the_run(clock: Clock, images: Path, tmp_path: Path) -> None:
    """The schedule still ends at its end."""
    run = tmp_path / "run"
    stopped(small(images), run, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with mock.patch.object(ahead, "used_before", lambda _: 2 * BUDGET):
        found = rates(small(images), run)
    assert 1 <= len(found) <= 2
    assert meta(run)["progress"] == 1
    assert facts_of(run)["used"] > 2 * BUDGET


@pytest.mark.parametrize(
    "growing",
    [{"transfer__freeze": "head", "transfer__unfreeze_at": 0.5}, {"augment__small_until": 0.5}],
)
def test_longer_updates_are_expected_until_all_stages_train_on_whole_images(
    growing: dict[str, Any], clock: Clock, images: Path, tmp_path: Path
) -> None:
    seen, original = [], train.replanned

    def spy(run: Any, total: int) -> int:
        result = original(run, total)
        seen.append((run.state.progress < 0.5, run.pace.least_update > 0))
        return result

    with mock.patch.object(train, "replanned", spy):
        train_here(small(images, **growing), tmp_path / "run")
    assert set(seen) == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.1, [8, 8]), (0.032, [8, 9]), (0.029, [8, 20]), (0.016, [8, 20]), (0.0049, [8, 61])],
)
def test_evaluation_is_timed_on_a_whole_batch_where_that_is_short(
    seconds: float, expected: list[int], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20, where three tenths of a second are fewer, but at least half."""
    clock, sizes = Clock(), []
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def answers(_model: Any, images: Any, _policy: Any) -> None:
        sizes.append(len(images))
        clock.now += seconds * len(images)

    monkeypatch.setattr(forecast_time, "predictions", answers)
    monkeypatch.setattr(Source, "at_once", lambda _: 20)
    config = config_of(small(images, train__budget=0.0))
    policy = Policy("cpu", "fp32", "contiguous", 1)
    with mock.patch.dict(models.MODELS, {"mini": MINI}):
        run = rehearse(config, preflight.load(config, lambda _: None), policy)
        test = run.splits.test
        run.splits = replace(run.splits, test=test.subset(np.arange(100) % len(test), "more"))
        assert forecast_time.seconds_per_image(run, policy) == pytest.approx(seconds)
    assert sizes == expected


def test_another_budget_is_another_run(clock: Clock, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(small(images), run, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Exception, match=r"train\.budget: 4\.0 then, 6\.0 now"):
        train_here(small(images, train__budget=6), run)
    train_here(small(images, train__budget=6), run, accept_change=True)
    assert 0.85 * 6 <= facts_of(run)["used"] <= 1.05 * 6


def test_a_budget_for_a_run_begun_without(clock: Clock, images: Path, tmp_path: Path) -> None:
    """It goes on from its share of the epochs that were planned."""
    run, settings = tmp_path / "run", small(images, train__budget=0, train__epochs=5)
    stopped(settings, run, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with prepared(), torch_restored():
        config = config_of(settings | {"train.budget": BUDGET})
        train.fit(config, run, run.parent / "cache", accept_change=True)
    steps = [each for each in read_events(run) if each["event"] == "step"]
    assert steps[20]["progress"] > 0.5
    assert meta(run)["progress"] == 1


# On the real clock


def test_a_real_run_ends(images: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    train_here(small(images, train__budget=5), tmp_path / "run")
    passed = time.perf_counter() - began
    facts = facts_of(tmp_path / "run")
    assert 0 < facts["used"] <= passed
    assert meta(tmp_path / "run")["progress"] == 1
    with prepared(), torch_restored():
        assert evaluate_run(tmp_path / "run", "test", "cpu")["accuracy"] >= 0


def test_the_clock_begins_with_the_process() -> None:
    program = (
        "import time; time.sleep(0.3); from deepcnn.budget import process_start; "
        "print(time.perf_counter() - process_start())"
    )
    began = time.perf_counter()
    command = [sys.executable, "-c", program]
    age = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.28 <= age <= time.perf_counter() - began + 0.02


def test_elsewhere_by_the_time_that_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", mock.Mock(side_effect=FileNotFoundError))
    assert 0 < time.perf_counter() - budget.process_start() <= time.process_time() + 1
