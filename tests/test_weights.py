import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models import build, load_weights
from deepcnn.models.weights import fit_channels


def saved(model: nn.Module, path: Path) -> Path:
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def network(classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("compact", classes, channels, 28).eval()


def test_the_same_network_comes_back_bit_for_bit(tmp_path: Path) -> None:
    first, second = network(seed=1), network(seed=2)
    assert load_weights(second, saved(first, tmp_path / "w.safetensors")) == []
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


@pytest.mark.parametrize("channels", [1, 6])
def test_grey_pictures_look_the_same_to_other_channels(channels: int, tmp_path: Path) -> None:
    colour, other = network(), network(channels=channels, seed=1)
    (note,) = load_weights(other, saved(colour, tmp_path / "w.safetensors"))
    assert note == f"stage1.conv.weight was made for 3 channels and is fitted to {channels}"
    grey = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        expected = colour(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(other(grey.expand(-1, channels, -1, -1)), expected)


@given(st.integers(1, 5), st.integers(1, 12))
def test_fitted_channels_repeat_the_old_ones(old: int, new: int) -> None:
    weight = torch.arange(2.0 * old * 4).reshape(2, old, 2, 2)
    fitted = fit_channels(weight, new)
    assert fitted.shape == (2, new, 2, 2)
    for channel in range(new if new > 1 else 0):
        expected = weight[:, channel % old] * (old / new)
        torch.testing.assert_close(fitted[:, channel], expected)


def test_other_classes_keep_the_last_layer_they_have(tmp_path: Path) -> None:
    path = saved(network(classes=10), tmp_path / "w.safetensors")
    model = network(classes=4, seed=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    notes = load_weights(model, path)
    assert notes == [
        "output.weight was made for 10 classes and begins anew for 4",
        "output.bias was made for 10 classes and begins anew for 4",
    ]
    after, source = model.state_dict(), safetensors.torch.load_file(path)
    for key in after:
        expected: Tensor = before[key] if key.startswith("output") else source[key]
        assert torch.equal(after[key], expected), key


def test_a_file_without_batch_counters_will_do(tmp_path: Path) -> None:
    state = network().state_dict()
    few = {key: value for key, value in state.items() if "num_batches" not in key}
    safetensors.torch.save_file(few, tmp_path / "w.safetensors")
    assert load_weights(network(seed=3), tmp_path / "w.safetensors") == []


def test_another_network_is_refused_with_the_first_keys(tmp_path: Path) -> None:
    path = saved(build("lenet", 10, 1, 32), tmp_path / "w.safetensors")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConfigError) as refused:
        load_weights(model, path)
    message = str(refused.value)
    assert "\n" not in message
    assert "belongs to another network: 20 missing (stage1.conv.weight, " in message
    assert ", and 10 more); 8 unexpected (c1.bias, c1.weight, " in message
    assert "Choose the network it was made for with --model.name" in message
    for key, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    state["stage2.norm.weight"] = torch.zeros(3)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    expected = r"1 of another shape \(stage2\.norm\.weight \(3,\) instead of \(64,\)\)"
    with pytest.raises(ConfigError, match=expected):
        load_weights(network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", pickle.dumps({"a": 1})])
def test_files_that_are_no_safetensors_are_not_opened(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        load_weights(network(), path)
    with pytest.raises(ConfigError, match="is no file"):
        load_weights(network(), tmp_path)
