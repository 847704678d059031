"""The finished model on disk: what was saved comes back to the bit, and what was not is refused."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from deepcnn import artefact, models
from deepcnn.data.preprocess import Preprocess
from deepcnn.errors import RunError, UserError

CLASSES = ("shirt", "shoe", 'a "bag", größer')
FILES = ("weights.safetensors", "meta.json", "manifest.json")
FACTS = {"config": {"data": {"name": "toy"}}, "test": {"accuracy": 0.1 + 0.2}}
PREPROCESS = Preprocess(1, 28, 2, (0.1307,), (1 / 3,))


def network(name: str = "lenet", channels: int = 1) -> nn.Module:
    """With weights, and batch statistics where it has them, that are not those it starts with."""
    torch.manual_seed(0)
    model = models.build(name, len(CLASSES), channels, 28)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.rand(tensor.shape).to(tensor.dtype))
    return model.eval()


def save(run: Path, model: nn.Module, name: str = "lenet") -> Path:
    folder = run / "model"
    artefact.save(folder, name, model.state_dict(), PREPROCESS, CLASSES, FACTS)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that no test may change."""
    return save(tmp_path_factory.mktemp("run"), network())


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A run folder with a copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "run" / "model")).parent


def reseal(folder: Path) -> None:
    """Write the manifest anew, as somebody would who wants a changed folder to be believed."""
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name in FILES[:2]
        for content in [(folder / name).read_bytes()]
    }
    manifest = {"schema": 1, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


@pytest.mark.parametrize("name", ["lenet", "compact"])
def test_what_is_loaded_answers_as_what_was_saved(name: str, tmp_path: Path) -> None:
    model = network(name)
    save(tmp_path, model, name)
    images = torch.rand(5, 1, 32, 32)
    for place in (tmp_path, tmp_path / "model"):
        found = artefact.load(place)
        assert type(found.model) is type(model)
        with torch.no_grad():
            assert torch.equal(found.model.eval()(images), model(images))
        assert found.preprocess == PREPROCESS
        assert found.classes == CLASSES
        assert {key: found.meta[key] for key in FACTS} == FACTS


def test_the_files_can_be_read_without_this_package(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    expected = network().state_dict()
    tensors = load_file(saved / "weights.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    meta = json.loads((saved / "meta.json").read_text(encoding="utf-8"))
    assert (meta["schema"], meta["model"], tuple(meta["classes"])) == (1, "lenet", CLASSES)
    assert meta["preprocess"] == {
        "channels": 1, "size": 28, "pad": 2, "mean": [0.1307], "std": [1 / 3],
        "geometry": "none", "keep": 1.0, "interpolation": "bilinear", "least": 0,
        "views": "plain", "sure": 1.0,
    }  # fmt: skip
    sealed = (saved / "manifest.json").read_text()
    reseal(saved)
    assert (saved / "manifest.json").read_text() == sealed


def test_a_model_is_not_written_over(saved: Path) -> None:
    before = {path: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match="not empty"):
        save(saved.parent, network("compact"), "compact")
    assert {path: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere does not exist; expected a run folder made by"):
        artefact.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no finished model.*deepcnn train \.\.\. --out"):
        artefact.load(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(RunError, match="file holds no finished model"):
        artefact.load(file)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(name: str, copy: Path) -> None:
    (copy / "model" / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing|holds no finished model"):
        artefact.load(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, -1])
def test_truncated_files(name: str, length: int, copy: Path) -> None:
    path = copy / "model" / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"model is damaged: .*Train again, or restore a copy"):
        artefact.load(copy)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_changed_bit_is_found(
    name: str, place: float, bit: int, saved: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.getbasetemp() / "changed"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(saved, run)
    content = bytearray((run / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (run / name).write_bytes(content)
    with pytest.raises(RunError, match="changed is damaged: "):
        artefact.load(run)


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_is_executed(writer: str, sealed: bool, copy: Path, tmp_path: Path) -> None:
    weights, canary = copy / "model" / "weights.safetensors", tmp_path / "canary"
    if writer == "pickle":
        weights.write_bytes(pickle.dumps({"c1.weight": Canary(canary)}))
    else:
        torch.save({"c1.weight": Canary(canary)}, weights)
    if sealed:
        reseal(copy / "model")
    with pytest.raises(RunError):
        artefact.load(copy)
    assert not canary.exists()
    if writer == "pickle":  # the canary does sing
        pickle.loads(weights.read_bytes())
        assert canary.exists()


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda meta: {key: value for key, value in meta.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta | {"schema": 2}, "has schema 2, this version reads 1"),
        (lambda meta: meta | {"model": "gone"}, "unknown model 'gone'"),
        *(
            (change, "is no model that this version can use")
            for change in (
                without("schema"),
                without("classes"),
                without("preprocess"),
                lambda _: None,
                lambda _: [1, 2],
                lambda meta: meta | {"model": "compact"},
                lambda meta: meta | {"classes": ["a", "b"]},
                lambda meta: meta | {"classes": 3},
            )
        ),
    ],
)
def test_what_was_sealed_but_makes_no_sense(
    change: Callable[[dict[str, Any]], object], message: str, copy: Path
) -> None:
    path = copy / "model" / "meta.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    reseal(copy / "model")
    with pytest.raises(UserError, match=message) as refusal:
        artefact.load(copy)
    assert "\n" not in str(refusal.value)
