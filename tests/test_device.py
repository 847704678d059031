import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn import choose, device, phases
from deepcnn.choose import Choice, choose_policy
from deepcnn.config import Hardware
from deepcnn.device import (
    Policy,
    available_threads,
    find_device,
    generator,
    machine,
    mix,
)
from deepcnn.errors import ConfigError

PLAIN = Policy("cpu", "fp32", "contiguous", threads=4)
AUTO = Hardware(device="cpu")
SHAPE = (16, 3, 8, 8)


class Laboratory:
    """A clock that only a network moves: by `seconds` of what it is computed with, else by 1."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: dict[tuple[str, str, int], float] = {}
        self.seen: list[tuple[str, str, int]] = []
        self.sizes: list[int] = []
        self.hiccup = -1  # number of the forward pass that takes much longer

    def build(self) -> nn.Module:
        return Clocked(self)

    def choose(self, cache: Path, options: Hardware = AUTO, name: str = "net") -> Choice:
        return choose_policy(options, name, self.build, SHAPE, cache)


class Clocked(nn.Module):
    def __init__(self, laboratory: Laboratory) -> None:
        super().__init__()
        self.laboratory = laboratory
        self.weight = nn.Parameter(torch.ones(3))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        plain = images.is_contiguous()
        how = (
            "bf16" if torch.is_autocast_enabled("cpu") else "fp32",
            "contiguous" if plain else "channels_last",
            torch.get_num_threads(),
        )
        self.laboratory.seen.append(how)
        self.laboratory.sizes.append(len(images))
        late = 1000 * (len(self.laboratory.seen) == self.laboratory.hiccup)
        self.laboratory.now += self.laboratory.seconds.get(how, 1.0) + late
        logits: Tensor = self.dropout(images).mean((2, 3)) * self.weight
        return logits


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    """A machine of four cores with 16-bit products."""
    made = Laboratory()
    monkeypatch.setattr(choose, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(phases, "delay", lambda: 0.0)
    monkeypatch.setattr(device, "available_threads", lambda: 4)
    monkeypatch.setattr(choose, "has_bf16", lambda name: name == "cpu")
    threads = torch.get_num_threads()
    yield made
    torch.set_num_threads(threads)


def nothing_to_build() -> nn.Module:
    raise AssertionError("measured although there is nothing to choose")


def test_mixed_seeds_stay_what_they_are() -> None:
    assert mix(0, "weights") == 2934036865011653446
    assert mix(1, "order", 2) == 1671847539343688486


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 9) | st.text(max_size=3), max_size=3))
def test_mixed_seeds_depend_on_every_argument(seed: int, names: list[int | str]) -> None:
    mixed = mix(seed, *names)
    assert 0 <= mixed < 2**63
    assert mixed == mix(seed, *names)
    others = [[*names, 0], [*names, "0"], ["abcd", *names]]
    assert len({mixed, mix(seed ^ 1, *names), *(mix(seed, *other) for other in others)}) == 5


def test_a_generator_depends_on_its_arguments_only() -> None:
    def numbers(*names: object) -> list[float]:
        return torch.rand(4, generator=generator(3, *names)).tolist()

    before = torch.get_rng_state()
    assert numbers("flip", 0) == numbers("flip", 0)
    assert numbers("flip", 0) != numbers("flip", 1) != numbers("crop", 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_devices_that_are_there_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [find_device(name) for name in ("auto", "mps")] == ["mps", "mps"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == "cpu"


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "meta", "cuda:", "cuda:-1", "cpu,cuda"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown device '.*', expected auto, cpu, cuda, "):
        find_device(name)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for count, name in ((0, "cuda"), (0, "cuda:0"), (2, "cuda:2")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(ConfigError, match=f"^device {name} is not there: {count} CUDA devices"):
            find_device(name)
    with pytest.raises(ConfigError, match=r"^device mps is not there: no Apple GPU found"):
        find_device("mps")


def test_the_machine_is_described_in_json() -> None:
    facts = machine("cpu")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["torch"] == torch.__version__
    assert facts["processor"]
    assert 1 <= available_threads() <= (os.cpu_count() or 1)
    assert facts["cores"] == available_threads()


def test_a_policy_arranges_images_and_lets_16_bits_in() -> None:
    policy = Policy("cpu", "bf16", "channels_last", threads=1)
    images = policy.arrange(torch.rand(2, 3, 4, 4))
    assert images.is_contiguous(memory_format=torch.channels_last)
    for used, dtype in ((policy, torch.bfloat16), (policy.exact(), torch.float32)):
        with used.autocast():
            assert used.place(nn.Conv2d(3, 1, 1))(images).dtype == dtype


def test_layers_draw_what_they_do_after_torch_manual_seed() -> None:
    images, draws = torch.ones(9, 9), []
    for reseed in (Policy("cpu", "fp32", "contiguous", threads=1).reseed, torch.manual_seed):
        reseed(2**63 - 1)
        draws.append(nn.functional.dropout(images))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], nn.functional.dropout(images))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_set_is_kept_and_nothing_is_measured(precision: str, tmp_path: Path) -> None:
    options = Hardware("cpu", precision, "channels_last", threads=3)
    policy, origin, _ = choose_policy(options, "net", nothing_to_build, SHAPE, tmp_path)
    assert policy == Policy("cpu", precision, "channels_last", threads=3)
    assert origin == "as set"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        (Hardware("cpu", precision="bf16"), {2, 4}),
        (Hardware("cpu", layout="channels_last"), {2, 4}),
        (Hardware("cpu", threads=3), {3}),
    ],
)
def test_what_is_set_is_kept_while_the_rest_is_measured(
    options: Hardware, threads: set[int], laboratory: Laboratory, tmp_path: Path
) -> None:
    policy, *_ = laboratory.choose(tmp_path, options)
    tried = [set(column) for column in zip(*laboratory.seen, strict=True)]
    free = [{"fp32", "bf16"}, {"contiguous", "channels_last"}]
    kept = [{options.precision}, {options.layout}]
    for values, expected, fixed in zip(tried, free, kept, strict=False):
        assert values == (expected if fixed == {"auto"} else fixed)
    assert tried[2] == threads
    expected_policy = [
        plain if choice == "auto" else choice
        for plain, choice in (("fp32", options.precision), ("contiguous", options.layout))
    ]
    assert [policy.precision, policy.layout] == expected_policy


CHOICES = [
    ({}, PLAIN),
    # A gain of less than a tenth is no reason to leave the plain way.
    ({("fp32", "channels_last", 4): 0.92, ("bf16", "contiguous", 4): 0.95}, PLAIN),
    ({("fp32", "contiguous", 2): 0.92}, PLAIN),
    ({("bf16", "contiguous", 4): 3.0, ("fp32", "contiguous", 2): 3.0}, PLAIN),
    ({("fp32", "channels_last", 4): 0.90}, Policy("cpu", "fp32", "channels_last", 4)),
    ({("bf16", "contiguous", 4): 0.5}, Policy("cpu", "bf16", "contiguous", 4)),
    (
        {("bf16", "contiguous", 4): 0.5, ("bf16", "channels_last", 4): 0.4},
        Policy("cpu", "bf16", "channels_last", 4),
    ),
    ({("fp32", "contiguous", 2): 0.90}, Policy("cpu", "fp32", "contiguous", 2)),
    (
        {("fp32", "channels_last", 4): 0.5, ("fp32", "channels_last", 2): 0.3},
        Policy("cpu", "fp32", "channels_last", 2),
    ),
]


@pytest.mark.parametrize(("seconds", "expected"), CHOICES)
def test_only_a_clear_gain_departs_from_the_plain_policy(
    seconds: dict[tuple[str, str, int], float],
    expected: Policy,
    laboratory: Laboratory,
    tmp_path: Path,
) -> None:
    laboratory.seconds = seconds
    assert laboratory.choose(tmp_path)[:2] == (expected, "measured")


def test_one_slow_round_does_not_count(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.seconds = {("bf16", "contiguous", 4): 0.5}
    laboratory.choose(tmp_path / "first")
    forward_passes = len(laboratory.seen)
    for hiccup in range(3, forward_passes + 1, 3):
        laboratory.seen.clear()
        laboratory.hiccup = hiccup
        assert laboratory.choose(tmp_path / str(hiccup))[0].precision == "bf16"


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 4), (0.06, 10), (0.001, 16)])
def test_trials_are_as_large_as_time_allows(
    seconds: float, size: int, laboratory: Laboratory, tmp_path: Path
) -> None:
    laboratory.seconds = {("fp32", "contiguous", 4): seconds}  # of four images
    laboratory.choose(tmp_path)
    assert laboratory.sizes[-1] == size


def test_what_was_measured_is_remembered(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.seconds = {("bf16", "contiguous", 4): 0.5}
    policy, *_ = laboratory.choose(tmp_path)
    again = choose_policy(AUTO, "net", nothing_to_build, SHAPE, tmp_path)
    assert again[:2] == (policy, "remembered")
    (file,) = (tmp_path / "policies").iterdir()
    seconds = json.loads(file.read_text())["seconds"]
    assert seconds["bf16 contiguous 4 threads"] == 0.5
    assert seconds["bf16 contiguous 2 threads"] == 1.0


OTHER_QUESTIONS: list[Callable[[Laboratory, Path], Choice]] = [
    lambda laboratory, cache: laboratory.choose(cache, name="other"),
    lambda laboratory, cache: laboratory.choose(cache, Hardware("cpu", threads=4)),
    lambda laboratory, cache: laboratory.choose(cache, Hardware("cpu", layout="contiguous")),
    lambda laboratory, cache: choose_policy(AUTO, "net", laboratory.build, (15, 3, 8, 8), cache),
    lambda laboratory, cache: choose_policy(AUTO, "net", laboratory.build, (16, 3, 9, 9), cache),
]


@pytest.mark.parametrize("ask", OTHER_QUESTIONS)
def test_another_question_is_measured_anew(
    ask: Callable[[Laboratory, Path], Choice], laboratory: Laboratory, tmp_path: Path
) -> None:
    laboratory.choose(tmp_path)
    assert ask(laboratory, tmp_path)[1] == "measured"
    assert len(list((tmp_path / "policies").iterdir())) == 2


def test_another_machine_is_measured_anew(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory.choose(tmp_path)
    monkeypatch.setattr(device, "available_threads", lambda: 8)
    assert laboratory.choose(tmp_path)[1] == "measured"


@pytest.mark.parametrize("content", ["", "{}", '{"policy": {"device": "cpu", "other": 1}}'])
def test_a_memory_that_makes_no_sense_is_measured_anew(
    content: str, laboratory: Laboratory, tmp_path: Path
) -> None:
    laboratory.choose(tmp_path)
    (file,) = (tmp_path / "policies").iterdir()
    file.write_text(content)
    assert laboratory.choose(tmp_path)[:2] == (PLAIN, "measured")


def test_a_cache_that_cannot_be_written_is_said(laboratory: Laboratory, tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.touch()
    policy, origin, _ = laboratory.choose(cache)
    assert policy == PLAIN
    assert origin.startswith(f"measured, not remembered ({cache / 'policies'}: ")


def test_what_other_programs_disturbed_is_not_remembered(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = itertools.count(step=1000)
    monkeypatch.setattr(phases, "delay", lambda: float(next(waited)))
    for _ in range(2):
        policy, origin, _ = laboratory.choose(tmp_path)
        assert policy == PLAIN
        assert origin == "measured, not remembered: other programs had the cores meanwhile"
    assert list(tmp_path.iterdir()) == []


def test_measuring_draws_nothing_from_the_global_generator(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    laboratory.choose(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options", [Hardware("cpu", policy="off"), Hardware("cpu", "bf16", policy="off")]
)
def test_nothing_is_measured_where_that_is_off(options: Hardware, tmp_path: Path) -> None:
    policy, origin, seconds = choose_policy(options, "net", nothing_to_build, SHAPE, tmp_path)
    precision = "fp32" if options.precision == "auto" else options.precision
    assert policy == Policy("cpu", precision, "contiguous", available_threads())
    assert (origin, seconds, list(tmp_path.iterdir())) == ("not measured", {}, [])


def test_what_was_measured_is_said(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.seconds = {("bf16", "contiguous", 4): 0.5}
    choice = laboratory.choose(tmp_path)
    words = "\n".join(choice.in_words())
    assert words == "\n".join(laboratory.choose(tmp_path).in_words()).replace(
        "remembered", "measured"
    )
    for line in (
        "a training step, measured:",
        "  fp32 contiguous 4 threads     1,000.0 ms",
        "  bf16 contiguous 4 threads     500.0 ms",
        "chosen: bf16 contiguous 4 threads, 2.00 times as fast as the first",
    ):
        assert line in words.splitlines()
    laboratory.seconds = {("bf16", "contiguous", 4): 0.95}
    kept = laboratory.choose(tmp_path, name="other").in_words()[-1]
    assert kept.startswith("chosen: fp32 contiguous 4 threads, kept: another must be 1.10 times")


def test_a_chip_without_16_bit_products_is_named(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "has_bf16", lambda name: False)
    said: list[str] = []
    found = choose_policy(AUTO, "net", laboratory.build, SHAPE, tmp_path, said.append)
    assert {how[0] for how in laboratory.seen} == {"fp32"}
    assert found.policy.precision == "fp32"
    assert said[1:] == ["cpu has no instructions for bf16 here, so fp32 it is"]


def test_16_bit_products_are_what_the_processor_says() -> None:
    """In the words of Linux: AMD's and Intel's vector instructions, and Intel's tiles."""
    text = Path("/proc/cpuinfo")
    if device.platform.machine() != "x86_64" or not text.exists():
        pytest.skip("no list of an x86 processor's instructions on this system")
    flags = next(line for line in text.read_text().splitlines() if line.startswith("flags"))
    assert device.has_bf16("cpu") == bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
    assert not device.has_bf16("mps")


@pytest.mark.parametrize(
    ("architecture", "vectors", "tiles", "expected"),
    [("x86_64", False, False, False), ("AMD64", True, False, True), ("x86_64", False, True, True),
     ("aarch64", False, False, True)],
)  # fmt: skip
def test_emulated_16_bit_products_do_not_count(
    architecture: str,
    vectors: bool,
    tiles: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the library says that it can do them."""
    monkeypatch.setattr(device.platform, "machine", lambda: architecture)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert device.has_bf16("cpu") == expected
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not device.has_bf16("cpu")


def test_one_core_is_enough(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "available_threads", lambda: 1)
    assert laboratory.choose(tmp_path).policy.threads == 1
    assert {how[2] for how in laboratory.seen} == {1}
