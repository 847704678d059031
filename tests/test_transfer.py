import re
from copy import deepcopy

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models import MODELS, build, find, zoo
from deepcnn.models.transfer import features, freeze, parameter_groups, plan_in_words, stages


def network(name: str, side: int = 64, classes: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, classes, 3, side)


def images(count: int, side: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def on_meta(name: str) -> nn.Module:
    card = find(name).card
    with torch.device("meta"):
        return build(name, 10, *card.input)


def train(model: nn.Module, side: int = 64, steps: int = 2) -> None:
    """Some updates that move all that may move: large, with decay, in training mode."""
    groups = parameter_groups(model, lr=0.1, decay=0.5)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(steps):
        model.train()
        outputs = model(images(6, side, seed=step))
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(part, torch.arange(6) % 5) for part in parts]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# Stages

VGG11_BN = [0, 4, 8, 11, 15, 18, 22, 25]  # where its convolutions are, by torchvision's layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        ("resnet152", ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        ("compact", ["stage1", "stage2", "stage3", "conv4", "output"]),
        ("mlp", ["hidden", "output"]),
        ("vgg11-bn", [*(f"features.{i}" for i in VGG11_BN), "classifier", "classifier.6"]),
        ("torchvision/mobilenet_v3_small",
         [*(f"features.{i}" for i in range(13)), "classifier", "classifier.3"]),
        ("torchvision/convnext_tiny", [*(f"features.{i}" for i in range(8)), "classifier.2"]),
        ("torchvision/vit_b_16",
         ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in range(12)), "heads.head"]),
        ("timm/mobilenetv2_100",
         ["conv_stem", *(f"blocks.{i}" for i in range(7)), "conv_head", "classifier"]),
        ("timm/vit_tiny_patch16_224",
         ["patch_embed", *(f"blocks.{i}" for i in range(12)), "head"]),
    ],
)  # fmt: skip
def test_the_stages_of_networks(name: str, expected: list[str]) -> None:
    assert [stage for stage, _ in stages(on_meta(name))] == expected


def test_norms_and_embeddings_belong_to_a_stage_with_weights() -> None:
    found = dict(stages(on_meta("resnet18")))
    assert found["conv1"] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    found = dict(stages(on_meta("timm/vit_tiny_patch16_224")))
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(found["patch_embed"])
    assert {"norm.weight", "norm.bias"} <= set(found["blocks.11"])


@pytest.mark.parametrize("name", ["googlenet", "torchvision/googlenet", "torchvision/inception_v3"])
def test_auxiliary_heads_are_not_the_head(name: str) -> None:
    *others, (head, keys) = stages(on_meta(name))
    assert head == ("output" if name == "googlenet" else "fc")
    assert keys == [f"{head}.weight", f"{head}.bias"]
    auxiliary = [stage for stage, _ in others if stage.lower().startswith(("aux", "head4"))]
    assert len(auxiliary) == (1 if "inception" in name else 2)


FAMILIES = sorted({re.split(r"\d|_", n)[0]: n for n in zoo.torchvision_names()}.values())


@pytest.mark.parametrize(
    "names",
    [
        list(MODELS),
        [f"torchvision/{name}" for name in FAMILIES],
        [f"timm/{name}" for name in zoo.timm_names()[::150]],
    ],
    ids=["museum", "torchvision", "timm"],
)
def test_every_parameter_is_in_one_stage_and_the_last_is_the_classifier(names: list[str]) -> None:
    for name in names:
        model = on_meta(name)
        found = stages(model)
        assert len({stage for stage, _ in found}) == len(found), name
        keys = [key for _, names in found for key in names]
        assert sorted(keys) == sorted(key for key, _ in model.named_parameters()), name
        assert len(found) >= 4 or name in ("mlp", "sprint", "dash"), name
        head, own = found[-1]
        assert own[0] == f"{head}.weight", name
        assert all(any(model.get_parameter(k).dim() > 1 for k in keys) for _, keys in found), name
        classifier = model.get_classifier() if name.startswith("timm") else None  # type: ignore[operator]
        if isinstance(classifier, nn.Module):  # others have two, one for distillation
            assert model.get_submodule(head) in classifier.modules(), name


# Freezing


@pytest.mark.parametrize(
    ("name", "until"),
    [
        ("resnet18", "layer3"),
        ("resnet18", -1),
        ("googlenet-bn", "inception4c"),
        ("compact", 3),
        ("torchvision/mobilenet_v3_small", 5),
        ("timm/mobilenetv2_100", "blocks.4"),
    ],
)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(name: str, until: str | int) -> None:
    model = network(name)
    freeze(model, until)
    names = [stage for stage, _ in stages(model)]
    first = until % len(names) if isinstance(until, int) else names.index(until)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model)
    after = model.state_dict()
    trains = {key for _, keys in stages(model)[first:] for key in keys}
    frozen = {key for _, keys in stages(model)[:first] for key in keys}
    assert trains
    assert frozen
    layers = {key.rpartition(".")[0] for key in frozen}
    for key, tensor in after.items():
        is_frozen = key in frozen or key.rpartition(".")[0] in layers
        assert torch.equal(tensor, before[key]) == is_frozen, key
    statistics = [key for key in after if key.endswith("running_var")]
    assert {key.rpartition(".")[0] in layers for key in statistics} == (
        {True} if until == -1 else {True, False}
    )


def test_training_computes_frozen_norms_as_evaluation_does() -> None:
    model = network("compact", 32)
    train(model, 32)  # running statistics other than those of any batch
    freeze(model, -1)
    x = images(4, 32)
    with torch.no_grad():
        assert torch.equal(model.train()(x), model.eval()(x))
        freeze(model, "conv4")
        assert not torch.equal(model.train()(x), model.eval()(x))


def test_freezing_less_lets_the_rest_train_again() -> None:
    model, never = network("compact", 32), network("compact", 32)
    for until in (-1, "conv4", 2, 0):
        freeze(model, until)
    assert all(parameter.requires_grad for parameter in model.parameters())
    for both in (model, never):
        train(both, 32)
    for key, tensor in never.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


def test_copies_are_as_frozen() -> None:
    model = network("compact", 32)
    freeze(model, -1)
    copied = deepcopy(model)
    before = {key: tensor.clone() for key, tensor in copied.state_dict().items()}
    train(copied, 32)
    moved = {key for key, x in copied.state_dict().items() if not torch.equal(x, before[key])}
    assert moved == {"output.weight", "output.bias"}


def test_norms_without_weights_are_frozen_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    assert [stage for stage, _ in stages(model)] == ["0", "2", "6"]
    freeze(model, "2")
    train(model, 16)
    assert torch.equal(model.get_buffer("1.running_mean"), torch.zeros(4))
    assert model.get_buffer("3.running_mean").all()


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("layer9", "unknown stage 'layer9'; did you mean layer4? Choose one of: conv1, layer1, "),
        ("", "unknown stage ''. Choose one of: conv1, layer1, layer2, layer3, layer4, fc"),
        (6, "there is no stage 6, expected a place from 0 to 5, from the end -1 to -6, or one of"),
        (-7, "there is no stage -7, expected a place from 0 to 5, "),
    ],
)
def test_unknown_stages_are_refused(until: str | int, message: str) -> None:
    model = on_meta("resnet18")
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        freeze(model, until)
    assert all(parameter.requires_grad for parameter in model.parameters())


# Rates


@settings(max_examples=25)
@given(st.floats(1e-6, 10), st.floats(0.05, 1), st.integers(0, 5))
def test_each_stage_learns_slower_than_the_next(lr: float, decay: float, until: int) -> None:
    model = on_meta("resnet18")
    freeze(model, until)
    groups = parameter_groups(model, lr, decay)
    names = ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert [group["name"] for group in groups] == names[until:]
    for place, group in enumerate(reversed(groups)):
        assert group["lr"] == pytest.approx(lr * decay**place, rel=1e-12)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_an_optimiser_takes_steps_as_long_as_the_rates_say() -> None:
    model = network("compact", 32)
    groups = parameter_groups(model, lr=0.5, decay=0.1)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    F.cross_entropy(model(images(4, 32)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(groups, lr=99.0).step()
    rates = {"stage1": 5e-5, "stage2": 5e-4, "stage3": 5e-3, "conv4": 0.05, "norm4": 0.05}
    for key, parameter in model.named_parameters():
        rate = rates.get(key.partition(".")[0], 0.5)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), before[key] - rate * parameter.grad)


def test_the_plan_in_words() -> None:
    model = on_meta("resnet18")
    freeze(model, "layer3")
    assert plan_in_words(model, parameter_groups(model, 0.01, 0.3)).splitlines() == [
        "stage    parameters  learning rate",
        "conv1         9,536  frozen",
        "layer1      147,968  frozen",
        "layer2      525,568  frozen",
        "layer3    2,099,712  0.0009",
        "layer4    8,393,728  0.003",
        "fc            5,130  0.01",
        "10,498,570 of 11,181,642 parameters train",
    ]
    halves = [{"params": list(model.parameters())[-2:-1], "lr": 1.0},
              {"params": list(model.parameters())[-1:], "lr": 2.0}]  # fmt: skip
    assert plan_in_words(model, halves).splitlines()[-2:] == [
        "fc            5,130  1 to 2",
        "5,130 of 11,181,642 parameters train",
    ]


# Features


@pytest.mark.parametrize(
    ("name", "side", "width"),
    [
        ("resnet18", 64, 512),
        ("vgg11-bn", 64, 4096),
        ("googlenet", 64, 1024),
        ("googlenet-bn", 64, 1024),
        ("alexnet-owt", 64, 4096),
        ("compact", 64, 128),
        ("torchvision/mobilenet_v3_small", 64, 1024),
        ("torchvision/googlenet", 64, 1024),
        ("timm/mobilenetv2_100", 64, 1280),
        ("timm/vit_tiny_patch16_224", 224, 192),
    ],
)
def test_the_head_makes_logits_of_features(name: str, side: int, width: int) -> None:
    model = network(name, side).train()
    x = images(3, side)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # or images would vanish in deep networks before they are trained
    with torch.no_grad():
        model(x)
    found = features(model, x)
    assert found.shape == (3, width)
    assert not found.requires_grad
    weight, bias = list(model.parameters())[-2:] if name != "googlenet" else _output(model)
    with torch.no_grad():
        logits = model.eval()(x)
        torch.testing.assert_close(found @ weight.T + bias, logits)
        assert float(logits.std(0).max()) > 0  # not the same for all images


def _output(model: nn.Module) -> tuple[Tensor, Tensor]:
    return model.get_parameter("output.weight"), model.get_parameter("output.bias")


@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224", "resnet18"])
def test_features_are_what_timm_calls_them(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    x = images(2, 224)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(features(model, x), expected)


def test_features_of_a_head_that_is_a_convolution_are_its_mean_input() -> None:
    model = network("torchvision/squeezenet1_1")
    x = images(2)
    with torch.no_grad():
        expected = model.eval().get_submodule("features")(x).mean((2, 3))
    torch.testing.assert_close(features(model, x), expected)
    assert expected.shape == (2, 512)


def test_features_leave_no_hook_behind() -> None:
    model = network("compact", 32)
    features(model, images(2, 32))
    with pytest.raises(RuntimeError):
        features(model, torch.zeros(2, 7, 32, 32))
    assert not any(layer._forward_pre_hooks for layer in model.modules())
