"""The clock, the sides and what is counted; no test says how long anything may take."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepcnn import cost, models, speed
from deepcnn.bench import clock, limits, loading, sprint, step, words
from deepcnn.bench.sides import side
from deepcnn.cli import main
from deepcnn.config import Augment, Hardware
from faults import SMALL, config_of, tiny_limits, torch_restored, wait_until, write_images


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small enough to take no time: what is tested is not how long it takes."""
    tiny_limits(monkeypatch)
    monkeypatch.setattr(step, "SECONDS", 0.02)
    with torch_restored():
        yield


def test_sides_take_turns_and_every_other_round_goes_backwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            now[0] += seconds

        return call

    sides = {"slow": taking("slow", 3.0), "fast": taking("fast", 1.0)}
    seconds = clock.alternate(sides, 3, "turns", before={"fast": taking("before", 100.0)})
    assert seconds == {"slow": [3.0] * 3, "fast": [1.0] * 3}
    warm_up = ["slow", "fast"]
    assert calls == [*warm_up, "slow", "before", "fast", "before", "fast", "slow", "slow", "before",
                     "fast"]  # fmt: skip


def test_ratios_are_of_medians_and_of_rounds() -> None:
    slow, fast = [4.0, 6.0, 100.0], [2.0, 1.0, 4.0]
    assert clock.compared(slow, fast) == {
        "of_medians": 3.0, "median_of_rounds": 6.0, "min": 2.0, "max": 25.0,
    }  # fmt: skip
    assert clock.spread(fast) == {"median": 2.0, "min": 1.0, "max": 4.0, "values": fast}


class Counting:
    def __init__(self, start: int) -> None:
        self.number = start

    def add(self, what: int) -> tuple[int, int]:
        self.number += what
        return self.number, os.getpid()

    def wait_for(self, path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.01)
        return self.number


@contextmanager
def counting(start: int) -> Iterator[Counting]:
    yield Counting(start)


def test_a_side_stands_still_when_it_is_not_its_turn() -> None:
    with side(counting, 5) as made:
        assert made.ask("add", 2)[0] == 7
        number, process = made.ask("add", 1)
        assert (number, process) == (8, made.process.pid)
        facts = Path(f"/proc/{process}/stat")
        wait_until(lambda: facts.read_text().rpartition(")")[2].split()[0] == "T")
    assert not made.process.is_alive()


def test_a_side_works_in_turns_until_it_has_an_answer(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    with side(counting, 5) as made:
        made.begin("wait_for", str(sign))
        assert not made.turn(0.1)
        sign.touch()
        assert not made.pipe.poll(0.2)  # it stands still, and cannot have seen the sign
        assert made.turn(60)
        assert made.answer() == 5
        assert made.ask("add", 1)[0] == 6


def test_limits_are_positive_and_the_better_of_two_counts() -> None:
    first = limits.measured_peak()
    assert {name: set(each) for name, each in first.items()} == {
        name: {"convolution", "convolution_forward", "convolution_backward", "product"}
        for name in ("bf16", "fp32")
    }
    assert all(value > 0 for each in first.values() for value in each.values())
    double = {n: {what: 2 * value for what, value in each.items()} for n, each in first.items()}
    assert limits.higher(first, double) == limits.higher(double, first) == double
    assert limits.measured_copy() > 0


@pytest.mark.parametrize("name", ["alexnet-d2l", "lenet", "resnet20"])
def test_counted_work_is_three_times_the_forward_pass_less_the_gradient_of_the_images(
    name: str,
) -> None:
    work = step.WORK[name]
    with torch.device("meta"):
        model = models.build(name, work.classes, work.channels, work.side)
    layers = cost.layers(model, (work.channels, work.side, work.side))
    forward = 2 * cost.multiply_adds(layers)
    first = 2 * next(layer.multiply_adds for layer in layers if layer.multiply_adds)
    assert step.gflop_per_image(work) * 1e9 == pytest.approx(3 * forward - first, rel=1e-9)


def test_both_loops_train_the_network(tmp_path: Path) -> None:
    work = step.Work("lenet", 1, 32, 100, 10)
    hardware = Hardware("cpu", "fp32", "channels_last", threads=1)
    with step.ours(work, step.settings(work, hardware), tmp_path) as run:
        assert run.policy().precision == "fp32"
        before = {key: value.clone() for key, value in run.run.state.model.state_dict().items()}
        epoch = len(run.slices)
        assert epoch == step.IMAGES // 100
        run.train(3)
        run.train(epoch + 2)  # the second epoch begins anew, whole
        after = run.run.state.model.state_dict()
        assert run.run.state.step == 2
        assert len(run.slices) == epoch
        assert all(not torch.equal(after[key], before[key]) for key in after)
    loop = step.Plain(work, "cpu")
    assert {key: value.shape for key, value in loop.model.state_dict().items()} == {
        key: value.shape for key, value in after.items()
    }
    held = {key: value.clone() for key, value in loop.model.state_dict().items()}
    loop.train(1)
    assert any(not torch.equal(held[k], v) for k, v in loop.model.state_dict().items())


def test_a_long_turn_may_say_what_limits_it_and_the_next_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = step.Work("lenet", 1, 32, 100, 10)
    hardware = Hardware("cpu", "fp32", "channels_last", threads=1)
    with step.ours(work, step.settings(work, hardware), tmp_path) as run:
        run.train(2)
        assert run.run.trial is None
        assert run.run.watch.times["forward"] == 2
        monkeypatch.setattr(speed, "LONG", 0.0)
        run.train(3)
        assert run.run.trial is not None
        assert run.run.watch.times["forward"] == 3


@pytest.mark.parametrize("changes", loading.CHANGES.values(), ids=list(loading.CHANGES))
def test_both_loaders_make_whole_epochs(changes: Augment) -> None:
    one_by_one = loading.OneByOne(changes)
    assert len(one_by_one) == loading.NUM_IMAGES
    image, label = one_by_one[3]
    assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 0)
    ours = loading.Ours(changes)
    seen = []
    batches = ours.source.batches

    def spy(*arguments: object) -> Iterator[object]:
        for batch in batches(*arguments):  # type: ignore[arg-type]
            seen.append(batch)
            yield batch

    object.__setattr__(ours.source, "batches", spy)
    ours.epoch()
    assert sorted(torch.cat([batch.indices for batch in seen]).tolist()) == list(
        range(loading.NUM_IMAGES)
    )
    assert seen[0].images.shape == (loading.BATCH_SIZE, 3, 32, 32)
    # Both ways of changing noise leave numbers of the same size.
    theirs = torch.stack([one_by_one[index][0] for index in range(200)])
    assert float(seen[0].images.std()) == pytest.approx(float(theirs.std()), rel=0.1)


def test_a_sprint_is_timed_over_seeds(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    config = config_of(SMALL | {"data.name": str(images), "model.name": "lenet", "data.size": 32})
    found = sprint.measure("mine", config, num_seeds=2)
    assert found["num_seeds"] == len(found["accuracy"]["values"]) == 2
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(found["accuracy"]["values"]))
    assert all(value > 0 for value in found["seconds"]["values"])
    assert words.sprint(found).startswith("mine: ")


def test_the_command_prints_tables_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "step", "--network", "lenet", "--rounds", "1"])
    assert end.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["training,", "images/s", "plain", "deepcnn", "ratio", "rounds", "of",
                              "limit", "computed", "in"]  # fmt: skip
    assert out[1].startswith("lenet 1x32x32, 128")
    with pytest.raises(SystemExit):
        main(["bench", "step", "--network", "lenet", "--rounds", "1", "--json"])
    (record,) = json.loads(capsys.readouterr().out)["step"]
    assert record["network"] == "lenet"
    rates = record["images_per_second"]
    ratio = rates["deepcnn"]["median"] / rates["plain"]["median"]
    assert record["ratio"] == pytest.approx(dict.fromkeys(record["ratio"], ratio))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bench stp", r"Did you mean .step"),
        ("bench step --network lenett", r"unknown network 'lenett'; did you mean lenet\?"),
        ("bench sprint --seeds 0", r"--seeds is 0, expected at least 1"),
        ("bench data --rounds -1", r"--rounds is -1, expected at least 1"),
        ("bench sprint --recipe nope", r"unknown recipe 'nope'"),
    ],
)
def test_wrong_requests_are_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(message, err)
