"""What is counted, attributed and added up; no test says how long anything may take."""

import itertools
import json
import math
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deepcnn import models, phases
from deepcnn.cli import main
from deepcnn.config import Optim
from deepcnn.device import Policy
from deepcnn.errors import DeepcnnError
from deepcnn.models import MODELS
from deepcnn.profile import measure, summary, words
from deepcnn.profile.assemble import passes
from deepcnn.profile.ceilings import ceilings
from deepcnn.profile.counts import Counts
from deepcnn.profile.measure import counted, profile
from deepcnn.profile.page import page
from deepcnn.profile.rows import Ceilings, Pass, Profile, Row
from deepcnn.profile.step import Step
from deepcnn.profile.subject import Subject
from deepcnn.profile.tally import Work
from deepcnn.profile.trace import AUTOGRAD, BETWEEN, LAYER, LOSS, OPTIMIZER, Part, Trace
from faults import (
    MINI,
    SMALL,
    arguments_of,
    signals_restored,
    tiny_limits,
    torch_restored,
    write_images,
)

POLICY = Policy("cpu", "fp32", "contiguous", 1)
SGD = Optim(lr=0.1)
FP32 = 4  # bytes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Peaks of next to nothing: what is tested is not how high they are."""
    tiny_limits(monkeypatch)
    monkeypatch.setattr(measure, "SECONDS", 0.02)
    with torch_restored(), signals_restored():
        torch.set_num_threads(1)
        yield


@dataclass(frozen=True)
class Planted(Subject):
    """A network that no table knows."""

    module: Callable[[], nn.Module] = nn.Identity

    def build(self) -> nn.Module:
        return self.module()


def planted(
    module: Callable[[], nn.Module],
    shape: tuple[int, int, int] = (3, 8, 8),
    batch_size: int = 2,
    optim: Optim = SGD,
    policy: Policy = POLICY,
) -> Planted:
    return Planted("planted", shape, 10, batch_size, policy, optim, module)


def known(name: str, side: int, channels: int = 3, policy: Policy = POLICY) -> Subject:
    return Subject(name, (channels, side, side), 10, 2, policy, SGD)


def flops(counts: Counts) -> int:
    return sum(works.total() for works in counts.flops.values())


def flops_of_torch(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


class Tiny(nn.Module):
    """A convolution, an activation that is no layer, pooling, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.dense = nn.Linear(4 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:  # N 3 8 8
        x = self.pool(F.relu(self.conv(images)))
        logits: Tensor = self.dense(x.flatten(1))
        return logits


CONV, RELU = Part(LAYER, "conv"), Part(BETWEEN, "conv")
POOL, DENSE = Part(LAYER, "pool"), Part(LAYER, "dense")
IMAGES = 2 * 3 * 8 * 8 * FP32
MAPS, SMALL_MAPS = 2 * 4 * 8 * 8 * FP32, 2 * 4 * 4 * 4 * FP32
FILTERS, MATRIX = (4 * 27 + 4) * FP32, (64 * 10 + 10) * FP32
LOGITS = 2 * 10 * FP32


def test_products_of_a_tiny_network_by_hand() -> None:
    """A convolution multiplies a kernel with each window, a dense layer a row with each input; a
    multiply-add is two, and the way back takes twice as many but for what nobody asks for, the
    gradients of the images.
    """
    _, counts = counted(Step(planted(Tiny), train=True))
    found = {key: works.total() for key, works in counts.flops.items()}
    windows = 2 * 8 * 8
    assert found == {
        (CONV, "forward"): 2 * windows * 4 * 27,
        (CONV, "backward"): 2 * windows * 4 * 27,
        (DENSE, "forward"): 2 * 2 * 64 * 10,
        (DENSE, "backward"): 2 * 2 * 2 * 64 * 10,
    }
    assert counts.flops[CONV, "forward"].keys() == {Work("fp32", "convolution")}
    assert counts.flops[DENSE, "forward"].keys() == {Work("fp32", "product")}


def test_least_bytes_of_a_tiny_network_by_hand() -> None:
    _, counts = counted(Step(planted(Tiny), train=True))
    indices = SMALL_MAPS * 2  # 64 bits each
    weights = 4 * 27 * FP32
    matrix = 640 * FP32
    expected = {
        (CONV, "forward"): IMAGES + FILTERS + MAPS,
        (RELU, "forward"): 2 * MAPS,
        (POOL, "forward"): MAPS + SMALL_MAPS + indices,
        (DENSE, "forward"): SMALL_MAPS + MATRIX + LOGITS,
        (DENSE, "backward"): LOGITS + SMALL_MAPS + matrix + SMALL_MAPS + MATRIX,
        (POOL, "backward"): SMALL_MAPS + indices + MAPS + MAPS,
        (RELU, "backward"): 3 * MAPS,
        (CONV, "backward"): MAPS + IMAGES + weights + FILTERS,
        # parameter, gradient and momentum in; parameter and momentum out
        (Part(OPTIMIZER), "update"): 5 * (FILTERS + MATRIX),
    }
    assert {key: counts.moved[key] for key in expected} == expected


def test_an_evaluation_has_one_direction() -> None:
    _, counts = counted(Step(planted(Tiny), train=False))
    assert {phase for _, phase in counts.moved} == {"forward"}
    assert counts.moved[POOL, "forward"] == MAPS + SMALL_MAPS  # nobody needs to know the places
    assert counts.kept == {}


NETWORKS = {
    "lenet": 32, "mlp": 28, "alexnet-28": 28, "resnet18": 64, "resnet50": 64, "googlenet": 64,
    "resnet20": 32, "compact": 28, "speedy": 32, "brisk": 28, "sprint": 28,
    "torchvision/mobilenet_v3_small": 64, "torchvision/squeezenet1_1": 64,
    "timm/convnext_atto": 64, "timm/vit_tiny_patch16_224": 224, "timm/mobilevit_xxs": 64,
}  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_those_that_torch_counts(name: str, train: bool) -> None:
    grey = name in ("lenet", "mlp", "alexnet-28", "compact", "brisk", "sprint")
    step = Step(known(name, NETWORKS[name], 1 if grey else 3), train)
    _, counts = counted(step)
    assert flops(counts) == flops_of_torch(step) > 0
    assert not counts.uncounted


def test_products_in_16_bits_are_told_apart() -> None:
    step = Step(planted(Tiny, policy=replace(POLICY, precision="bf16")), train=True)
    _, counts = counted(step)
    assert flops(counts) == flops_of_torch(step)
    assert {work.format for works in counts.flops.values() for work in works} == {"bf16"}
    half = MAPS // 2
    assert counts.moved[RELU, "forward"] == 2 * half


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_forward_passes_cost_what_torchvision_publishes(name: str) -> None:
    """It counts multiply-adds of one image, in milliards."""
    library = pytest.importorskip("torchvision.models")
    published = library.get_model_weights(name).DEFAULT.meta
    step = Step(replace(known(f"torchvision/{name}", 224), num_classes=1000), train=False)
    _, counts = counted(step)
    assert flops(counts) / 2 / 2 / 1e9 == pytest.approx(published["_ops"], abs=6e-4)
    assert models.num_parameters(step.model) == published["num_params"]


@pytest.mark.parametrize("name", ["resnet20", "speedy", "googlenet", "torchvision/densenet121"])
def test_what_is_kept_is_what_autograd_saves(name: str) -> None:
    """Autograd tells of each tensor that it saves; weights and images are there anyway."""
    step = Step(known(name, 32), train=True)
    _, counts = counted(step)
    there = {each.untyped_storage().data_ptr() for each in step.model.parameters()}
    there |= {step.images.untyped_storage().data_ptr()}
    there |= {each.untyped_storage().data_ptr() for each in step.model.buffers()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.model(step.images)
    sizes = [each.untyped_storage().nbytes() for place, each in saved.items() if place not in there]
    of_layers = [size for part, size in counts.kept.items() if part.what != LOSS]
    assert sum(of_layers) == sum(sizes)


class Branches(nn.Module):
    """A shortcut, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        x = x + self.conv(x)
        return (x * self.scale).mean((2, 3))


def test_what_is_between_layers_has_its_own_part() -> None:
    trace, counts = counted(Step(planted(Branches), train=True))
    again = Part(LAYER, "conv", 1)
    assert list(trace.modules) == [Part(LAYER, "conv"), Part(LAYER, "norm"), again]
    after = again._replace(what=BETWEEN)
    assert [*counts.touched[after, "forward"]] == ["add", "mul", "mean"]
    assert str(again) == "conv (2)"
    assert str(after) == "after conv (2)"
    # The norm's output has two readers, whose gradients autograd adds, and the filters too.
    assert counts.touched[Part(AUTOGRAD), "backward"]["add"] == 3 * (IMAGES + 81 * FP32)


def test_parameters_belong_to_one_part(tmp_path: Path) -> None:
    found = profile(planted(Branches), True, tmp_path)
    numbers = {row.name: row.parameters for row in found.rows if row.parameters}
    assert numbers == {"conv": 81, "norm": 6, "parameters of no layer that was called": 3}
    assert sum(found.memory()["parameters"].values()) == 90 * FP32


def test_every_moment_belongs_to_one_part() -> None:
    ticks = itertools.count()
    step = Step(known("resnet20", 32), train=True)
    trace = Trace(step.model, lambda: next(ticks))
    with trace.layers():
        step(trace)
    lengths = trace.lengths(lambda began, ended: ended - began)
    (pause,) = (mark for mark, (key, _) in enumerate(trace.marks[:-1]) if key is None)
    assert sum(lengths.values()) == trace.marks[-1][1] - trace.marks[0][1] - 1
    assert trace.marks[pause - 1][0] == (Part(LOSS), "forward")
    assert {phase for _, phase in lengths} == {"forward", "backward", "update"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in step.model.modules())


class Slow(torch.autograd.Function):
    """Sleeps on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        time.sleep(0.02)
        return gradients[0]


class Sleepy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.01)
        found: Tensor = Slow.apply(x)
        return found


def test_time_is_found_where_it_is_spent(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 10), Sleepy(), nn.Linear(10, 10))

    found = profile(planted(build), True, tmp_path)
    (sleepy,) = (row for row in found.rows if row.kind == "Sleepy")
    assert sleepy.passes["forward"].least >= 0.01
    assert sleepy.passes["backward"].least >= 0.02
    assert found.whole["min"] >= 0.03
    assert found.passes()[0][:2] == (sleepy, "backward")
    assert found.passes()[1][:2] == (sleepy, "forward")


def test_weights_stay_and_random_numbers_too() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    step = Step(planted(Tiny), train=True)
    before = [each.detach().clone() for each in step.model.parameters()]
    step()
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, before, step.model.parameters()))


def test_a_bound_is_the_longer_of_arithmetic_and_traffic() -> None:
    best = Ceilings({"fp32": {"convolution": 4.0, "product": 2.0}}, 8.0)
    conv, dense, relu = (CONV, "forward"), (DENSE, "forward"), (RELU, "forward")
    counts = Counts(
        flops={
            conv: {Work("fp32", "convolution"): 8_000_000_000},  # type: ignore[dict-item]
            dense: {Work("fp32", "product"): 2_000_000_000},  # type: ignore[dict-item]
        },
        touched={},
        uncounted={},
        moved={conv: 8_000_000_000, dense: 16_000_000_000, relu: 4_000_000_000},
        kept={},
    )
    times = {conv: [5.0, 4.0, 9.0], dense: [4.0] * 3, relu: [0.25] * 3}
    found = passes(counts, times, best)  # type: ignore[arg-type]
    each = found[conv]  # type: ignore[index]
    assert (each.seconds, each.least, each.most) == (5.0, 4.0, 9.0)
    assert (each.bound, each.limited_by, each.efficiency) == (2.0, "arithmetic", 0.4)
    assert (each.recoverable, each.intensity) == (3.0, 1.0)
    assert (each.gflops, each.gigabytes) == (1.6, 1.6)
    each = found[dense]  # type: ignore[index]
    assert (each.bound, each.limited_by, each.recoverable) == (2.0, "bandwidth", 2.0)
    each = found[relu]  # type: ignore[index]
    assert (each.bound, each.efficiency, each.recoverable) == (0.5, 2.0, 0.0)
    assert best.balance("fp32") == 0.5


@pytest.mark.parametrize(
    ("optim", "states"),
    [
        (SGD, 1),
        (Optim(momentum=0.0), 0),
        (Optim(name="adamw", lr=0.001), 2),
    ],
)
def test_memory_is_that_of_the_tensors(optim: Optim, states: int, tmp_path: Path) -> None:
    found = profile(planted(Tiny, optim=optim), True, tmp_path)
    memory = {name: sizes.total() for name, sizes in found.memory().items()}
    size = FILTERS + MATRIX
    assert memory["parameters"] == memory["gradients"] == size
    steps = 4 * FP32 if optim.name == "adamw" else 0  # AdamW counts them for each tensor
    assert memory["optimiser state"] == states * size + steps
    assert found.input_bytes == IMAGES


def test_a_timeline_begins_with_what_is_always_there(tmp_path: Path) -> None:
    found = profile(planted(Tiny), True, tmp_path)
    assert found.timeline
    assert found.peak
    size = FILTERS + MATRIX
    live = found.timeline.live(2)
    assert live["parameters"][0] == live["optimiser state"][0] == size
    assert live["gradients"][-1] == size
    assert found.peak.size >= 3 * size + MAPS + SMALL_MAPS
    assert 'alt="MB in memory' in page(found)


def test_alexnet_holds_its_memory_in_dense_layers_and_computes_in_convolutions() -> None:
    """Krizhevsky et al. 2012 has 60 million parameters; Krizhevsky 2014 says that dense layers hold
    about 95 % of them, and convolutions take 90 to 95 % of the computation.
    """
    step = Step(Subject("alexnet", (3, 224, 224), 1000, 2, POLICY, SGD), train=True)
    trace, counts = counted(step)
    dense = {name for name, each in step.model.named_modules() if isinstance(each, nn.Linear)}
    of_dense = sum(works.total() for (part, _), works in counts.flops.items() if part.name in dense)
    held = sum(
        p.numel()
        for key, p in step.model.named_parameters()
        if key[:-7] in dense or key[:-5] in dense
    )
    assert models.num_parameters(step.model) == pytest.approx(60e6, rel=0.02)
    assert held / models.num_parameters(step.model) == pytest.approx(0.95, abs=0.02)
    assert 0.90 < 1 - of_dense / flops(counts) < 0.95
    assert len(trace.modules) > 8


class Odd(nn.Module):
    """Products that torch has no formula for, and much that is only moved."""

    def __init__(self) -> None:
        super().__init__()
        self.warp, self.waves, self.vector = Warp(), Waves(), nn.Parameter(torch.ones(384))

    def forward(self, images: Tensor) -> Tensor:
        x = F.pad(self.waves(self.warp(images)), (1, 1)).roll(1, 3)[..., 1:-1]
        x = torch.cat([x, x.flip(2)], 1)[:, :3].permute(0, 2, 3, 1).contiguous()
        x = x.flatten(1).sort(1).values
        x = F.interpolate(x[:, None, None], scale_factor=2)[..., ::2].flatten(1)
        return (torch.mv(x, self.vector)[:, None] + torch.zeros(10)).softmax(1)


class Warp(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        grid = torch.linspace(-1, 1, 8)[:, None, None].expand(len(images), 8, 8, 2)
        return F.grid_sample(images, grid, align_corners=False)


class Waves(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.fft.rfft2(images).real.mean(3, keepdim=True) + images


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    found = profile(planted(Odd), False, tmp_path)
    assert set(found.uncounted) == {"grid_sampler_2d", "_fft_r2c", "mv"}
    assert dict(found.uncounted["grid_sampler_2d"]) == {"warp": 1}
    assert found.uncounted["mv"] == {"after waves": 1}
    text = words.in_words(found)
    assert "not counted: grid_sampler_2d, called 1 times in warp" in text
    assert found.as_dict()["not_counted"]["_fft_r2c"] == {"waves": 1}


def test_peaks_are_measured_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "delay", lambda: 0.0)  # whatever else this machine is at
    lines: list[str] = []
    first = ceilings(POLICY, ["fp32"], tmp_path, lines.append)
    assert len(lines) == 2
    assert first.bandwidth > 0
    assert all(value > 0 for value in first.arithmetic["fp32"].values())
    assert ceilings(POLICY, ["fp32"], tmp_path, lines.append) == first
    assert len(lines) == 2
    ceilings(replace(POLICY, threads=2), ["fp32"], tmp_path, lines.append)
    assert len(lines) == 4  # another number of threads is another machine
    for file in (tmp_path / "peaks").iterdir():
        file.write_text("[")
    ceilings(POLICY, ["fp32"], tmp_path, lines.append)
    assert len(lines) == 6
    waited = itertools.count(step=1000)
    monkeypatch.setattr(phases, "delay", lambda: float(next(waited)))
    for _ in range(2):  # what other programs disturbed is measured again
        ceilings(replace(POLICY, threads=3), ["fp32"], tmp_path, lines.append)
    assert len(lines) == 14


def test_parts_add_up_to_the_whole_in_every_record(tmp_path: Path) -> None:
    found = profile(known("compact", 28, 1), True, tmp_path)
    facts = found.as_dict()
    parts = facts["seconds_of_layers"] + math.fsum(facts["seconds_outside"].values())
    assert facts["sum_of_parts"] * facts["seconds"]["median"] == pytest.approx(parts)
    assert parts == pytest.approx(
        math.fsum(each["seconds"] for row in facts["layers"] for each in row["passes"].values())
    )
    assert set(facts["seconds_outside"]) == {"loss", "autograd", "optimiser", "framework"}
    types = summary.by_type(found)
    assert sum(each.flops for each in types) == found.flops == facts["flops"]
    assert sum(each.parameters for each in types) == models.num_parameters(
        MODELS["compact"].build(10, 1, 28)
    )


NASTY = '</td><script>alert("1")</script>'


def fake(name: str) -> Profile:
    each = Pass(10**9, 10**6, 0.1, 0.1, 0.2, 0.05, 0.01)
    memory = dict.fromkeys(("parameters", "gradients", "optimiser state", "activations"), 4)
    row = Row(LAYER, name, name, "convolution", (4, 8, 8), 1, memory, {"forward": each})
    return Profile(
        subject={"network": name, "input": "1x8x8", "classes": 10, "batch_size": 2, "rounds": 3,
                 "policy": {"device": "cpu", "precision": "fp32", "layout": "contiguous",
                            "threads": 1}, "train": True},
        rows=[row],
        whole={"median": 0.1, "min": 0.1, "max": 0.2, "values": [0.1]},
        input_bytes=12,
        ceilings=Ceilings({"fp32": {"convolution": 20.0, "product": 10.0}}, 5.0),
        uncounted={name: {name: 1}},
        timeline=None,
    )  # fmt: skip


def test_names_are_data() -> None:
    text = page(fake(NASTY))
    assert NASTY not in text
    assert "&lt;script&gt;" in text
    assert text.count("<script>") == 1  # the page's own


def test_a_roofline_is_drawn() -> None:
    text = page(fake("conv"))
    address = text.partition('src="data:image/svg+xml;base64,')[2].partition('"')[0]
    assert ElementTree.fromstring(b64decode(address)).tag.endswith("svg")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["profile", *map(str, arguments)])
    return int(end.value.code or 0)


PLAIN = ("--precision", "fp32", "--hardware.layout", "contiguous", "--hardware.threads", "1")


def test_a_network_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = tmp_path / "page.html"
    assert call("lenet", "--train", "--batch", 4, *PLAIN, "--json", "--html", html) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["network"], facts["batch_size"], facts["train"]) == ("lenet", 4, True)
    kinds = {row["name"]: row["type"] for row in facts["layers"]}
    assert kinds["c1"] == "convolution"
    assert kinds["f6"] == "dense"
    assert kinds["after s2"] == "activation"
    for name in kinds:
        assert name in html.read_text()
    assert call("lenet", "--batch", 4, *PLAIN) == 0
    text = capsys.readouterr().out
    for beginning in ("lenet: forward pass of 4 images", "peaks of this machine: fp32",
                      "all layers: ", "computation: ", "memory: ", "bandwidth: "):  # fmt: skip
        assert any(line.startswith(beginning) for line in text.splitlines()), beginning


def test_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(models.MODELS, "mini", MINI)
    write_images(tmp_path / "toy")
    out = tmp_path / "run"
    settings = {**SMALL, "data.name": str(tmp_path / "toy"), "train.epochs": 1}
    with pytest.raises(SystemExit) as end:
        main(arguments_of(settings, out))
    assert not end.value.code
    capsys.readouterr()
    assert call(out, "--json", "--train") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["network"], facts["batch_size"], facts["classes"]) == ("mini", 10, 3)
    assert facts["policy"] == {
        "device": "cpu", "precision": "fp32", "layout": "contiguous", "threads": 1,
    }  # fmt: skip
    assert call(out, "--json", "--batch", 3, "--input", "1x16x16") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["input"], facts["batch_size"]) == ("1x16x16", 3)
    assert call(out, "--classes", 0) == 2
    assert "the number of classes is 0, expected at least 1" in capsys.readouterr().err


class Greedy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(1 << 50) + images


def test_want_of_memory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeepcnnError, match="not enough memory for 2 images at a time: lower --ba"):
        profile(planted(Greedy), False, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet", "--batch", "0"), "train.batch_size is 0, expected at least 1"),
        (("lenet", "--device", "tpu"), "unknown device 'tpu', expected auto, cpu"),
        (("nowhere/run",), "nowhere/run is no run folder, it has no config.json"),
        (("timm/nothing_like_it_at_all",), "unknown model 'timm/nothing_like_it_at_all'"),
        (("lenet", *PLAIN, "--html", "nowhere/x.html"), "cannot write nowhere/x.html: No such"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err.splitlines()[-1]
