"""Where the time of a run goes, and what is said about it: true, of use, and without effect."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepcnn import models, phases, preflight, speed, train
from deepcnn.bottleneck import WORTH, Evidence, Room, Trial, Verdict, verdict
from deepcnn.budget import Pace
from deepcnn.config import Config, Train
from deepcnn.data import decode, kept, photos
from deepcnn.device import Policy
from deepcnn.phases import PHASES, Stopwatch
from deepcnn.preview import look
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from faults import (
    MINI,
    SMALL,
    config_of,
    digest,
    read_events,
    torch_restored,
    train_here,
    write_images,
)

POLICY = Policy("cpu", "fp32", "contiguous", threads=1)
LONGEST = 1e6  # seconds after which no test has anything to say
names, lengths = st.sampled_from(PHASES), st.floats(0, 100)


@pytest.fixture(scope="module", autouse=True)
def _small_network() -> Iterator[None]:
    with mock.patch.dict(models.MODELS, {"mini": MINI}), torch_restored():
        POLICY.apply()  # another number of threads gives other bits
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("bottleneck") / "toy")


class Clock:
    """A clock that is set by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 5.0
        patch.setattr(phases.time, "perf_counter", lambda: self.now)


@given(st.lists(st.tuples(names, lengths, st.booleans())))
def test_the_seconds_of_the_phases_are_the_wall_time(
    spans: list[tuple[str, float, bool]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        watch, expected = Stopwatch(), dict.fromkeys(PHASES, 0.0)
        current = "other"
        for phase, seconds, is_block in spans:
            if is_block:
                with watch.during(phase):
                    clock.now += seconds
                expected[phase] += seconds
            else:
                watch.start(phase)
                current = phase
            clock.now += 0.5
            expected[current] += 0.5
        assert watch.seconds == pytest.approx(expected) or watch.by_phase()
        assert watch.by_phase() == pytest.approx(expected)
        assert watch.elapsed() == pytest.approx(clock.now - 5)


def test_a_block_that_fails_gives_the_phase_back() -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock, watch = Clock(patch), Stopwatch("forward")
        with pytest.raises(ValueError, match="spoilt"), watch.during("copying"):
            clock.now += 2
            raise ValueError("spoilt")
        clock.now += 3
        assert watch.by_phase() == dict.fromkeys(PHASES, 0.0) | {"copying": 2, "forward": 3}


@given(lengths, st.dictionaries(st.sampled_from(["reading", "decoding"]), lengths), st.booleans())
def test_waiting_for_threads_is_divided_as_they_say(
    waited: float, worked: dict[str, float], in_advance: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock, watch = Clock(patch), Stopwatch()

        def batches() -> Iterator[int]:
            clock.now += waited
            yield 1

        for _ in watch.coming(batches(), "waiting"):
            clock.now += 1 + in_advance * 1000  # while threads may go on
        watch.add_threads(worked, 1)
        found, busy = watch.by_phase(), sum(worked.values())
        assert sum(found.values()) == pytest.approx(waited + 1 + in_advance * 1000)
        assert found["other"] == pytest.approx(1 + in_advance * 1000)
        assert found["waiting"] == pytest.approx(max(0, waited - busy), abs=1e-9)
        if busy > waited:  # as they would be without each other's time
            for phase, seconds in worked.items():
                assert found[phase] * busy == pytest.approx(seconds * waited, abs=1e-6)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """Any run, with settings that do or do not leave room for each remedy."""
    config = Config(
        train=Train(
            batch_size=draw(st.sampled_from([8, 64, 1000])),
            accumulate=draw(st.sampled_from([1, 4])),
            test_each_epoch=draw(st.booleans()),
            checkpoint_seconds=draw(st.sampled_from([0.0, 5.0, 60.0])),
        )
    )
    updates, epochs = draw(st.integers(1, 1000)), draw(st.integers(0, 5))
    return Evidence(
        config=config,
        seconds=dict.fromkeys(PHASES, 0.0) | draw(st.dictionaries(names, lengths)) | {"other": 0.1},
        updates=updates,
        pieces=updates * max(config.train.accumulate, draw(st.sampled_from([1, 2]))),
        saves=epochs + draw(st.integers(0, 3)),
        epochs=epochs,
        trial=Trial(*(draw(st.floats(0, 1)) for _ in range(4))),
        num_images=draw(st.sampled_from([100, 10_000])),
        tested=draw(st.floats(0.1, 1)),
        num_parameters=draw(st.sampled_from([10_000, 60_000_000])),
        dense=draw(st.floats(0, 1)),
        cores=2,
        room=draw(st.none() | st.builds(Room, *[st.integers(1, 10**12)] * 3)),
    )


def avoidable(evidence: Evidence) -> dict[str, float]:
    """Seconds that each remedy could save, by words of its advice: worked out a second time."""
    seconds, settings = evidence.seconds, evidence.config.train
    found = {}
    room = evidence.room
    if room and room.needed <= room.memory:
        files = seconds["reading"] + seconds["decoding"]
        others = seconds["augmenting"] + seconds["preprocessing"]
        waits = seconds["waiting"] * files / (files + others) if files else 0
        found["keep them decoded"] = files + waits
    passes = seconds["forward"] + seconds["backward"]
    fixed = passes * evidence.trial.computing
    if settings.accumulate == 4:
        found["--train.accumulate 1"] = 0.75 * fixed
    elif evidence.pieces > evidence.updates:  # for want of memory
        found["more memory"] = (1 - evidence.updates / evidence.pieces) * fixed
    loading = evidence.trial.loading * (seconds["copying"] + seconds["preprocessing"])
    each = fixed + loading + seconds["optimiser"] + seconds["other"]
    if evidence.num_images >= 4 * 20 * settings.batch_size:
        found[f"--train.batch_size {4 * settings.batch_size},"] = 0.75 * each
    elif evidence.num_images >= 2 * 20 * settings.batch_size:
        found[f"--train.batch_size {2 * settings.batch_size},"] = 0.5 * each
    if settings.test_each_epoch:
        found["--train.test_each_epoch false"] = evidence.tested * seconds["evaluating"]
    clocked = evidence.saves - evidence.epochs
    if clocked:
        after = 600 if settings.checkpoint_seconds == 60 else 60
        fewer = max(0, clocked - (sum(seconds.values()) - seconds["measuring"]) / after)
        saved = seconds["checkpointing"] * fewer / evidence.saves
        found[f"--train.checkpoint_seconds {after},"] = saved
    return found


@given(evidences())
def test_the_sentence_names_what_can_best_be_avoided(evidence: Evidence) -> None:
    found, possible = verdict(evidence), avoidable(evidence)
    most = max(possible.values(), default=0.0)
    total = sum(seconds for phase, seconds in evidence.seconds.items() if phase != "measuring")
    gain = total / (total - most) if most < total else float("inf")
    assert found.gain >= 1
    assert 0 <= found.share <= 1 + 1e-9
    if gain >= WORTH * (1 + 1e-9):
        best = [words for words, saved in possible.items() if saved >= most * (1 - 1e-9)]
        assert any(words in found.in_words() for words in best)
        assert found.gain == pytest.approx(gain)
        assert found.share * total >= most * (1 - 1e-9)
        assert f"expect {found.gain:.1f} times" in found.in_words()
    elif gain < WORTH * (1 - 1e-9):
        assert found.gain == 1
        assert "expect" not in found.in_words()
        longest = max(evidence.seconds[name] for name in PHASES if name != "measuring")
        assert found.share == pytest.approx(longest / total)
    assert not any(words in found.in_words() for words in set(ALL_ADVICE) - matched(possible))
    assert json.loads(json.dumps(found.as_dict()))["sentence"] == found.in_words()


ALL_ADVICE = ("keep them decoded", "--train.accumulate", "more memory", "--train.batch_size",
              "--train.test_each_epoch", "--train.checkpoint_seconds")  # fmt: skip


def matched(possible: dict[str, float]) -> set[str]:
    return {words for words in ALL_ADVICE if any(key.startswith(words) for key in possible)}


def evidence_of(seconds: dict[str, float], **more: Any) -> Evidence:
    facts: dict[str, Any] = {
        "config": Config(), "updates": 10, "pieces": 10, "saves": 0, "epochs": 0,
        "trial": Trial(computing=0.0, loading=0.0, gflop=0.1, peak=100.0), "num_images": 100,
        "tested": 0.5, "num_parameters": 10, "dense": 0.1, "cores": 2,
    }  # fmt: skip
    return Evidence(seconds=dict.fromkeys(PHASES, 0.0) | seconds, **(facts | more))


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        (
            evidence_of({"decoding": 60, "waiting": 6, "forward": 34}, room=Room(10**9, 1, 10**9)),
            "limited by decoding pictures on 2 cores (66% of the time): keep them decoded, for "
            "which the disk of DEEPCNN_CACHE needs 2.0 GB free, expect 2.9 times the speed",
        ),
        (
            evidence_of({"decoding": 60, "forward": 40}, room=Room(10**10, 10**11, 10**9)),
            "limited by decoding pictures, which take 10.0 GB decoded, and memory has room for 1.0 "
            "(60% of the time): no setting would make much of a difference",
        ),
        (
            evidence_of({"forward": 1, "backward": 3}),  # 1,280 images of 0.1 GFLOP in 4 s
            "limited by arithmetic in the backward pass at 32 GFLOP/s, 32% of a convolution at its "
            "best (75% of the time): no setting would make much of a difference",
        ),
        (
            evidence_of({"forward": 1, "backward": 1}),
            "limited by arithmetic in the forward pass at 64 GFLOP/s, 64% of a convolution at its "
            "best, near what this machine can do (50% of the time): no setting would make much of "
            "a difference",
        ),
        (
            evidence_of({"forward": 50, "backward": 30, "other": 20}, delayed=40.0),
            "limited by other programs, which had the core that it waited for (40% of the time): "
            "it would be faster without them",
        ),
        (
            evidence_of(
                {"forward": 50, "backward": 30, "other": 20},
                delayed=40.0,
                num_images=100_000,
                trial=Trial(computing=0.98, loading=0.0, gflop=0.1, peak=100.0),
            ),
            "limited by other programs, which had the core that it waited for (40% of the time): "
            "it would be faster without them",
        ),
        (
            evidence_of({"decoding": 60, "forward": 40}, room=Room(10**9, 1, 10**9), delayed=40.0),
            "limited by decoding pictures on 2 cores (60% of the time): keep them decoded, for "
            "which the disk of DEEPCNN_CACHE needs 2.0 GB free, expect 2.5 times the speed",
        ),
    ],
)
def test_sentences(evidence: Evidence, sentence: str) -> None:
    assert verdict(evidence).in_words() == sentence


def test_measuring_changes_no_bit(data: Path, tmp_path: Path) -> None:
    """Dropout, batch statistics and averages go on as if nothing had been tried half-way."""
    settings = {**SMALL, "data.name": str(data), "train.ema": 0.8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SHORT", LONGEST)
        patch.setattr(speed, "LONG", LONGEST)
        train_here(settings, tmp_path / "without")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "LONG", 0.0)
        train_here(settings, tmp_path / "with")
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    last = [read_events(tmp_path / name)[-2] for name in ("without", "with")]
    assert ["bottleneck" in event for event in last] == [False, True]


def test_a_trial_leaves_a_run_as_it_was(data: Path) -> None:
    run = begun(config_of({**SMALL, "data.name": str(data)}))
    images = run.source(run.splits.train)
    train.train_epoch(run, images, total=24)
    run.state.optimizer.zero_grad(set_to_none=True)
    before = {name: each.clone() for name, each in run.state.model.state_dict().items()}
    chance, made = torch.get_rng_state(), dict(run.watch.times)
    trial = speed.try_sizes(run, images)
    after = run.state.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in run.state.model.parameters())
    assert torch.equal(torch.get_rng_state(), chance)
    counted = ("forward", "optimiser", "checkpointing")
    assert all(run.watch.times[phase] == made[phase] for phase in counted)
    # 36 + 864 weights at 10x10 and 3x3 places, and 18 of the last layer; a backward pass is two.
    assert trial.gflop == pytest.approx(3 * 2 * (36 * 100 + 216 * 9 + 18) / 1e9)


def test_phases_are_within_the_time_that_a_run_takes(data: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    train_here({**SMALL, "data.name": str(data)}, tmp_path / "run")
    wall = time.perf_counter() - began
    meta = json.loads((tmp_path / "run" / "model" / "meta.json").read_bytes())
    seconds = meta["phases"]
    assert meta["seconds"] <= sum(seconds.values()) <= wall
    assert seconds.keys() == {
        "augmenting", "preprocessing", "copying", "forward", "backward", "optimiser",
        "evaluating", "checkpointing", "other",
    }  # fmt: skip
    epochs = [event for event in read_events(tmp_path / "run") if event["event"] == "epoch"]
    for earlier, later in itertools.pairwise(event["phases"] for event in epochs):
        assert all(later[name] >= value for name, value in earlier.items())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for label, number in itertools.product("ab", range(24)):
        (folder / label).mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def begun(config: Config) -> Run:
    return rehearse(config, preflight.load(config, lambda _: None), POLICY)


def slow_decoding(patch: pytest.MonkeyPatch) -> None:
    """Plant pictures that take long, of which none is kept."""
    original = decode.decode_bytes

    def slow(*arguments: Any) -> torch.Tensor:
        time.sleep(0.01)
        return original(*arguments)

    patch.setattr(decode, "decode_bytes", slow)


def test_a_planted_bottleneck_is_found_and_its_remedy_mends_it(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "delay", lambda: 0.0)  # whatever else this machine is at
    settings = {**SMALL, "data.name": str(pictures), "data.size": 12, "augment.crop": 0}
    config = config_of({**settings, "data.validation": 4, "data.test": 4})
    with monkeypatch.context() as patch:
        patch.setattr(kept, "room", lambda _: 0)
        run = begun(config)
        assert isinstance(run.splits.train.images, photos.Photos)
        slow_decoding(patch)
        found = look(run, seconds=0.5)
    assert found.limit.startswith("decoding pictures on ")
    assert found.advice.startswith("keep them decoded")
    assert found.gain > 1.5
    slow_decoding(monkeypatch)
    monkeypatch.setenv("DEEPCNN_CACHE", str(pictures.parent / "cache"))
    run = begun(config)
    assert "decod" not in look(run, seconds=0.5).in_words()
    assert run.watch.by_phase()["decoding"] == 0


def test_a_look_is_at_updates_of_the_run_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "data.name": str(data), "train.epochs": 1, "data.validation": 0}
    run = begun(config_of(settings))
    found = look(run, seconds=LONGEST)
    assert isinstance(found, Verdict)
    assert run.state.step == len(run.slices(0)) == 10
    assert run.watch.times["optimiser"] == 9  # the first one warms up
    train_here(settings, tmp_path / "run")
    losses = [event["loss"] for event in read_events(tmp_path / "run") if event["event"] == "step"]
    rehearsed = [event["loss"] for event in run.state.events if event["event"] == "step"]
    assert rehearsed == losses


def test_a_look_at_a_run_of_one_update(data: Path) -> None:
    config = config_of({**SMALL, "data.name": str(data), "data.validation": 0})
    config = replace(config, train=replace(config.train, batch_size=96))
    run = begun(config)
    assert look(run, seconds=0.1).gain >= 1
    assert run.watch.times["optimiser"] == 1


def test_a_run_tells_once_what_limits_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here({**SMALL, "data.name": str(data)}, tmp_path / "short")
    assert "limited by" not in capsys.readouterr().err
    assert "bottleneck" not in json.loads((tmp_path / "short/model/meta.json").read_bytes())
    monkeypatch.setattr(speed, "SHORT", 0.0)
    train_here({**SMALL, "data.name": str(data)}, tmp_path / "told")
    said = capsys.readouterr().err
    assert said.count("speed: limited by ") == 1
    facts = json.loads((tmp_path / "told" / "model" / "meta.json").read_bytes())["bottleneck"]
    assert facts["sentence"].startswith(f"limited by {facts['limit']} (")


@pytest.mark.parametrize(("budget", "is_tried"), [(60.0, True), (9.0, False), (1.0, False)])
def test_nothing_is_tried_where_a_budget_has_no_time_for_it(
    budget: float, is_tried: bool, data: Path
) -> None:
    """A second and three updates of a tenth each, where all that follows takes three."""
    run = begun(config_of({**SMALL, "data.name": str(data)}))
    images = run.source(run.splits.train)
    train.train_epoch(run, images, total=24)
    run.pace = Pace(
        budget=budget, update=0.1, pause=1, end=1, image=0.01, end_images=100, save=0,
        save_every=60, began=time.perf_counter(),
    )  # fmt: skip
    speed.tell(run, images, after=0.0)
    assert (run.trial is not None) == is_tried
