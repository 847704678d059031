import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepcnn import cost
from deepcnn.models import MODELS


@given(
    channels=st.integers(1, 6),
    out=st.integers(1, 6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    side=st.integers(6, 20),
)
def test_a_convolution_costs_its_kernel_at_every_output(
    channels: int, out: int, kernel: int, stride: int, padding: int, side: int
) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(channels, out, kernel, stride, padding))
    (layer,) = cost.layers(model, (channels, side, side))
    places = (side + 2 * padding - kernel) // stride + 1
    assert layer.output == (out, places, places)
    assert layer.multiply_adds == out * places**2 * channels * kernel**2
    assert layer.parameters == out * channels * kernel**2 + out
    assert layer.activation_bytes == 4 * out * places**2


def test_groups_share_the_work() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=2))
    (layer,) = cost.layers(model, (8, 5, 5))
    assert layer.multiply_adds == 16 * 9 * 4 * 9


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.empty(3))

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer(self.layer(images.flatten(1))) * self.scale.sum()
        return F.relu(x)


def test_a_layer_called_again_costs_work_but_no_parameters() -> None:
    with torch.device("meta"):
        model = Twice()
    first, second, whole = cost.layers(model, (1, 2, 2))
    assert (first.parameters, second.parameters) == (20, 0)
    assert first.multiply_adds == second.multiply_adds == 16
    assert (whole.name, whole.parameters) == ("", 3)  # what it holds beside its layers


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg16", "googlenet", "resnet50"])
def test_products_are_those_that_torch_counts(name: str) -> None:
    landmark = MODELS[name]
    channels, side = landmark.card.input
    with torch.device("meta"):
        model = landmark.build(landmark.card.classes, channels, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.empty(1, channels, side, side))
    table = cost.layers(model, (channels, side, side))
    assert 2 * cost.multiply_adds(table) == counter.get_total_flops()


def test_nothing_is_left_behind_on_the_model() -> None:
    with torch.device("meta"):
        model = MODELS["compact"].build(10, 1, 28)
    cost.layers(model, (1, 28, 28))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_shapes_that_the_text_prints_for_alexnet() -> None:
    """Text 002 prints them for one image of 1x224x224."""
    with torch.device("meta"):
        model = MODELS["alexnet-d2l"].build(10, 1, 224)
    found = {layer.name: layer.output for layer in cost.layers(model, (1, 224, 224))}
    assert found == {
        "conv1": (96, 54, 54), "pool1": (96, 26, 26), "conv2": (256, 26, 26),
        "pool2": (256, 12, 12), "conv3": (384, 12, 12), "conv4": (384, 12, 12),
        "conv5": (256, 12, 12), "pool5": (256, 5, 5), "dense6": (4096,), "dropout6": (4096,),
        "dense7": (4096,), "dropout7": (4096,), "dense8": (10,),
    }  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_table_holds_all_parameters(name: str) -> None:
    landmark = MODELS[name]
    channels, side = landmark.card.input
    with torch.device("meta"):
        model = landmark.build(10, channels, side)
    table = cost.layers(model, (channels, side, side))
    counted = sum(layer.parameters for layer in table)
    if name == "googlenet":  # its heads are for training only
        counted += sum(p.numel() for key, p in model.named_parameters() if key.startswith("head"))
    assert counted == sum(p.numel() for p in model.parameters())
