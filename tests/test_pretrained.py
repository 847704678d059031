"""Published weights, from servers on this machine that behave as the real ones, or worse."""

import hashlib
import io
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torchvision import models as torchvision_models

from deepcnn import progress
from deepcnn.errors import ConfigError
from deepcnn.models import build, cache, load_weights, zoo
from deepcnn.models.pretrained import (
    MUSEUM,
    Pretrained,
    _unpickled,
    find_weights,
    load_pretrained,
)
from photos import DATA, first_photos

LIMIT = 5.0  # seconds in which a machine without network must have said so
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = "shufflenet_v2_x0_5"  # of torchvision, 1.4 million parameters
TINY = "timm/test_resnet"  # of timm, half a million
TINY_PATH = "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"


@dataclass
class Site:
    """Files by path and how they are served; `cuts` are the bytes after which bodies end."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)  # where it is not the SHA-256
    cuts: list[int] = field(default_factory=list)
    pause: float = 0.0  # seconds before the second half of a body
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self.site.requests.append(("HEAD", self.path))
        self.begin()

    def do_GET(self) -> None:
        self.site.requests.append(("GET", self.path))
        body = self.begin()
        body = body[: self.site.cuts.pop(0)] if self.site.cuts else body
        half = len(body) // 2 if self.site.pause else len(body)
        self.wfile.write(body[:half])
        self.wfile.flush()
        time.sleep(self.site.pause)
        self.wfile.write(body[half:])

    def begin(self) -> bytes:
        """Send the headers, those of the hub among them, and return the body."""
        content = self.site.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        etag = self.site.etags.get(self.path, hashlib.sha256(content).hexdigest())
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return content[start:]

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Do not mind clients which went away."""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = Server(("127.0.0.1", 0), type("", (Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the test's own, no proxies, and nothing sent to anybody about this machine."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def torch_cache(tmp_path: Path) -> Path:
    return tmp_path / "torch/hub/checkpoints"


def serve_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub at another address, as HF_ENDPOINT would at the start of a process."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


def publish(
    name: str,
    content: bytes,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    member: str = "DEFAULT",
) -> str:
    """Let torchvision's weights of a network be `content`; return the file's name there."""
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = torchvision_models.get_model_weights(name)[member]
    monkeypatch.setattr(weights.value, "url", f"{address}/models/{file}")
    return file


def pickled(state: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def randomised(model: nn.Module) -> nn.Module:
    """Weights and statistics that no network begins with."""
    generator = torch.Generator().manual_seed(7)
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_var", "norm.weight", "bn.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() < 2:
            tensor.normal_(0, 0.1, generator=generator)
    return model.eval()


def theirs(name: str, num_classes: int = 1000) -> nn.Module:
    torch.manual_seed(3)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = torchvision_models.get_model(name, weights=None, num_classes=num_classes, **options)
    return randomised(model)


def images(count: int, side: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, side, side, generator=generator)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if anything as much as looks up a name."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise AssertionError(f"the network was asked: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not tried


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def refusal(model: str, weights: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        find_weights(model, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# torchvision: fetched once, then from the cache


def test_weights_of_torchvision_come_once_and_are_its_networks(
    site: Site, torch_cache: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    reference = theirs(SMALL)
    content = pickled(reference.state_dict())
    file = publish(SMALL, content, site.address, monkeypatch)
    site.files[f"/models/{file}"] = content

    found = find_weights(f"torchvision/{SMALL}", "")
    assert found.path == torch_cache / file
    assert found.path.read_bytes() == content
    assert {path.suffix for path in torch_cache.iterdir()} <= {".pth", ".lock"}
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (found.side, found.interpolation, found.crop) == (224, "bilinear", 0.875)
    assert found.num_classes == 1000
    assert site.requests == [("GET", f"/models/{file}")]
    assert capfd.readouterr() == ("", ""), "what is quick is not talked about"

    request.getfixturevalue("no_network")
    assert find_weights(f"torchvision/{SMALL}", "IMAGENET1K_V1") == found
    model = zoo.landmark(f"torchvision/{SMALL}").build(1000, 3, 64).eval()
    assert load_pretrained(model, found) == []
    with torch.no_grad():
        assert torch.equal(model(images(2, 64)), reference(images(2, 64)))


@pytest.mark.parametrize("name", ["resnet18", "googlenet-bn"])
def test_weights_of_torchvision_for_networks_of_the_museum(
    name: str, torch_cache: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    reference = theirs(MUSEUM[name])
    content = pickled(reference.state_dict())
    file = publish(MUSEUM[name], content, "http://nowhere", monkeypatch)
    torch_cache.mkdir(parents=True)
    (torch_cache / file).write_bytes(content)
    found = find_weights(name, "")
    assert found.model == name
    model = build(name, 1000, 3, 224).eval()
    heads = "the auxiliary heads in the file, which are not trained, are left out"
    assert load_pretrained(model, found) == ([heads] if name == "googlenet-bn" else [])
    with torch.no_grad():
        torch.testing.assert_close(model(images(1, 96)), reference(images(1, 96)))
    grey = build(name, 7, 1, 224)
    notes = load_pretrained(grey, found)
    assert [note.partition(" was ")[0] for note in notes if note != heads] == [
        "conv1.weight" if name == "resnet18" else "conv1.conv.weight", "fc.weight", "fc.bias",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="belongs to another network"):
        load_pretrained(build("alexnet-owt", 1000, 3, 224), found)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_transform_their_input_get_images_so_transformed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcnn.models.pretrained.torchvision_file", lambda _: Path("none.pth"))
    found = find_weights(f"torchvision/{name}", "")
    with torch.device("meta"):
        reference: Any = zoo.build_torchvision(name)
    reference.transform_input = True  # as torchvision sets it with its weights
    preset = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    pixels = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(2))

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    expected = reference._transform_input(normalised(preset.mean, preset.std))
    torch.testing.assert_close(normalised(found.mean, found.std), expected)


# torchvision: old files


def as_before_2020(state: dict[str, Tensor]) -> bytes:
    return pickled(state, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save"),
    [("squeezenet1_1", as_before_2020), ("mnasnet0_5", pickled), ("densenet121", pickled)],
)
def test_files_of_older_kinds(
    name: str, save: Any, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = theirs(name, num_classes=1000)
    state = deepcopy(reference.state_dict())
    for key in [key for key in state if "denselayer" in key]:
        # As in the published files; what stood for a dot is gone since names may not hold one.
        dotted = re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)
        state[dotted] = state.pop(key)
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        if name == "densenet121":
            del state[key]
    content = save(state)
    file = publish(name, content, "http://nowhere", monkeypatch)
    torch_cache.mkdir(parents=True)
    (torch_cache / file).write_bytes(content)
    model = zoo.landmark(f"torchvision/{name}").build(1000, 3, 64).eval()
    assert load_pretrained(model, find_weights(f"torchvision/{name}", "")) == []
    with torch.no_grad():
        assert torch.equal(model(images(2, 64)), reference(images(2, 64)))


def test_transformers_of_before_2023_are_read_under_todays_names(
    torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        today = torchvision_models.vit_b_16().state_dict()
    old = type(today)()  # tensors of one number each, so that the file is small
    for key, tensor in today.items():
        before = key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")
        old[before] = torch.tensor(1.0 + len(old)).expand(tensor.shape)
    content = pickled(old)
    file = publish("vit_b_16", content, "http://nowhere", monkeypatch)
    torch_cache.mkdir(parents=True)
    (torch_cache / file).write_bytes(content)
    tensors = _unpickled(find_weights("torchvision/vit_b_16", ""))
    assert set(old) != set(today)
    assert list(tensors) == list(today)
    for number, (key, tensor) in enumerate(tensors.items(), 1):
        assert tensor.flatten()[0] == number, key


# torchvision: what goes wrong


def test_a_file_that_runs_code_is_not_opened_although_its_hash_is_right(
    tmp_path: Path, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_cache.mkdir(parents=True)
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(canary),)

    for content in (pickled({"fc.weight": Bomb()}), pickle.dumps(Bomb(), protocol=2)):
        file = publish(SMALL, content, "http://nowhere", monkeypatch)
        (torch_cache / file).write_bytes(content)
        found = find_weights(f"torchvision/{SMALL}", "")
        with pytest.raises(ConfigError, match="holds other things than weights"):
            load_pretrained(nn.Identity(), found)
        assert not canary.exists()
    torch.load(io.BytesIO(pickled({"fc.weight": Bomb()})), weights_only=False)
    assert canary.exists(), "it would have gone off"


@pytest.mark.parametrize("state", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2)])
def test_a_file_of_other_things_is_refused(
    state: object, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_cache.mkdir(parents=True)
    file = publish(SMALL, pickled(state), "http://nowhere", monkeypatch)
    (torch_cache / file).write_bytes(pickled(state))
    found = find_weights(f"torchvision/{SMALL}", "")
    with pytest.raises(ConfigError, match="is no state of a network"):
        load_pretrained(nn.Identity(), found)


def test_a_damaged_file_in_the_cache_is_refused_each_time(
    torch_cache: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    content = pickled(theirs(SMALL).state_dict())
    path = torch_cache / publish(SMALL, content, "http://nowhere", monkeypatch)
    torch_cache.mkdir(parents=True)
    path.write_bytes(content)
    found = find_weights(f"torchvision/{SMALL}", "")
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    message = refusal(f"torchvision/{SMALL}")
    assert message.startswith(f"model.weights: {path} is damaged: its SHA-256 is ")
    assert "delete it and run the command again" in message
    with pytest.raises(ConfigError, match="is damaged"):
        load_pretrained(nn.Identity(), found)


def test_wrong_or_half_a_file_leaves_nothing_behind(
    site: Site, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(1).bytes(600_000)
    file = publish(SMALL, content, site.address, monkeypatch)
    address = f"{site.address}/models/{file}"
    for served, cuts, reason in (
        (content[::-1], [], "wrong content, SHA-256 "),
        (content, [300_001], "the connection closed after 300001 of 600000 bytes"),
        (content, [0], "the connection closed after 0 of 600000 bytes"),
        (None, [], "HTTP 404 Not Found"),
    ):
        site.files, site.cuts = {} if served is None else {f"/models/{file}": served}, cuts
        message = refusal(f"torchvision/{SMALL}")
        assert message.startswith(f"model.weights: cannot fetch {file} from {address} ({reason}")
        assert message.endswith(f"or fetch it elsewhere and put it into {torch_cache}")
        assert {path.suffix for path in torch_cache.iterdir()} <= {".lock"}
    site.files = {f"/models/{file}": content}
    assert find_weights(f"torchvision/{SMALL}", "").path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named(
    site: Site, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(SMALL, b"abc", site.address, monkeypatch)
    site.files[f"/models/{file}"] = b"abc"
    torch_cache.parent.mkdir(parents=True)
    torch_cache.write_text("a file where a folder should be")
    message = refusal(f"torchvision/{SMALL}")
    assert f"{torch_cache / file} cannot be written" in message
    assert "TORCH_HOME" in message


def test_a_long_download_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.05)
    content = bytes(range(256)) * 4096
    file = publish(SMALL, content, site.address, monkeypatch)
    site.files[f"/models/{file}"], site.pause = content, 0.1
    find_weights(f"torchvision/{SMALL}", "")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"{re.escape(file)}: \d\d%, .* left\n", printed.err)


# The hub


def tiny(num_classes: int = 1000) -> nn.Module:
    torch.manual_seed(5)
    return randomised(timm.create_model("test_resnet", pretrained=False, num_classes=num_classes))


def serve_tiny(site: Site, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Have the hub publish weights of a tiny network; return it with these."""
    model = tiny()
    serve_hub(site.address, monkeypatch)
    site.files = {"/": b"", TINY_PATH: safetensors.torch.save(model.state_dict())}
    return model


def test_weights_of_timm_come_once_and_are_its_networks(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    reference = serve_tiny(site, monkeypatch)
    found = find_weights(TINY, "")
    assert found.path.is_relative_to(tmp_path / "hub/models--timm--test_resnet.r160_in1k")
    assert found.path.read_bytes() == site.files[TINY_PATH]
    assert found.source == site.address + TINY_PATH
    assert found.licence == "apache-2.0"
    library: Any = timm.data
    published = library.resolve_model_data_config(reference)
    assert found.mean == published["mean"] == (0.5, 0.5, 0.5)
    assert found.std == published["std"]
    assert (found.side, found.crop) == (published["input_size"][1], published["crop_pct"])
    assert found.interpolation == published["interpolation"] == "bilinear"
    assert ("GET", TINY_PATH) in site.requests
    assert capfd.readouterr() == ("", "")

    request.getfixturevalue("no_network")
    for model, weights in ((TINY, ""), (TINY, "r160_in1k"), (f"{TINY}.r160_in1k", "")):
        assert find_weights(model, weights).path == found.path
    own = zoo.landmark(TINY).build(1000, 3, 160).eval()
    assert load_pretrained(own, found) == []
    with torch.no_grad():
        assert torch.equal(own(images(2, 64)), reference(images(2, 64)))


def test_a_broken_connection_to_the_hub_is_taken_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serve_tiny(site, monkeypatch)
    monkeypatch.setattr(cache, "FIRST_LINE_SECONDS", 0.05)
    monkeypatch.setattr(cache, "LINE_SECONDS", 0.0)
    site.cuts = [100_000]
    content = site.files[TINY_PATH]
    assert find_weights(TINY, "").path.read_bytes() == content
    assert "model.safetensors: " in capfd.readouterr().err


def test_what_the_hub_gives_must_be_what_it_announces(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_tiny(site, monkeypatch)
    site.etags[TINY_PATH] = "ab" * 32
    message = refusal(TINY)
    assert f"/blobs/{'ab' * 32} is damaged: its SHA-256 is " in message
    found = len(site.requests)
    assert refusal(TINY) == message
    assert len(site.requests) == found, "what is in the cache is not asked for again"
    site.etags[TINY_PATH] = "ab" * 20  # as of a file that the hub keeps in git
    assert "is kept without its SHA-256 and cannot be verified" in refusal_in_new_cache(monkeypatch)


def refusal_in_new_cache(monkeypatch: pytest.MonkeyPatch) -> str:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{constants.HF_HUB_CACHE}-2")
    return refusal(TINY)


def test_a_damaged_file_of_the_hub_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_tiny(site, monkeypatch)
    path = find_weights(TINY, "").path.resolve()
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + b"\x7f")
    message = refusal(TINY)
    assert f"{path} is damaged" in message
    path.unlink()
    assert find_weights(TINY, "").path.read_bytes() == content


def test_files_of_other_kinds_on_the_hub_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_tiny(site, monkeypatch)
    site.files[TINY_PATH.replace("model.safetensors", "pytorch_model.bin")] = site.files.pop(
        TINY_PATH
    )
    message = refusal(TINY)
    assert (
        "timm/test_resnet.r160_in1k has no model.safetensors, and files of other kinds" in message
    )
    assert not any("pytorch_model" in path for _, path in site.requests)
    for name, address in (("gcvit_xxtiny", "(https://"), ("botnet50ts_256", "(none at all)")):
        message = refusal(f"timm/{name}")
        assert message.startswith(f"timm has no weights for timm/{name} as safetensors {address}")


def test_offline_means_offline(
    site: Site, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    serve_hub(site.address, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(TINY)
    assert f"cannot fetch model.safetensors from {site.address}{TINY_PATH}" in message
    assert "(HF_HUB_OFFLINE is set)" in message
    assert "give its path: --model.weights FILE.safetensors" in message


def test_the_libraries_variables_are_obeyed(site: Site, tmp_path: Path) -> None:
    content = safetensors.torch.save(tiny().state_dict())
    site.files = {"/": b"", TINY_PATH: content}
    program = (
        "import torch; from deepcnn.models.cache import hub_file; print(torch.hub.get_dir(), "
        "hub_file('timm/test_resnet.r160_in1k', 'model.safetensors')[0])"
    )
    environment = {**os.environ, "HF_ENDPOINT": site.address, "HF_HOME": str(tmp_path / "home"),
                   "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*"}  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    folder, path = answer.stdout.split()
    assert folder == str(tmp_path / "torch/hub")
    assert Path(path).is_relative_to(tmp_path / "home/hub")
    assert Path(path).read_bytes() == content


# Without network


@pytest.mark.parametrize("kind", ["silent", "closed", "no such name"])
@pytest.mark.parametrize("model", [f"torchvision/{SMALL}", TINY])
def test_without_network_the_answer_comes_soon(
    model: str, kind: str, black_hole: str, torch_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CONNECT_SECONDS", 1.0)  # of 4, to save time
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    address = {"silent": black_hole, "closed": closed, "no such name": "http://nowhere.invalid"}[
        kind
    ]
    file = publish(SMALL, b"abc", address, monkeypatch)
    serve_hub(address, monkeypatch)
    zoo.landmark(model)  # imports
    begun = time.monotonic()
    message = refusal(model)
    assert time.monotonic() - begun < LIMIT - (4.0 - 1.0)
    if model == TINY:
        assert f"cannot fetch model.safetensors from {address}{TINY_PATH} (" in message
        assert "put it on this machine and give its path: --model.weights FILE" in message
    else:
        assert f"cannot fetch {file} from {address}/models/{file} (" in message
        assert message.endswith(f"put it into {torch_cache}")
    if kind == "silent":
        assert "(no answer within 1 s)" in message


def test_patience_ends_before_the_limit() -> None:
    assert cache.CONNECT_SECONDS <= LIMIT - 1


# What is said of weights


def test_all_of_torchvision_is_described_as_it_publishes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses: list[str] = []

    def note(address: str) -> Path:
        addresses.append(address)
        return Path(address).relative_to("https:/download.pytorch.org/models")

    monkeypatch.setattr("deepcnn.models.pretrained.torchvision_file", note)
    for name in zoo.torchvision_names():
        for member in torchvision_models.get_model_weights(name):
            if member.name == "IMAGENET1K_FEATURES" or (
                name.startswith("vit_") and member.transforms().crop_size != [224]
            ):
                message = refusal(f"torchvision/{name}", member.name)
                assert message.startswith(f"unknown weights for {name} '{member.name}'")
                continue
            found = find_weights(f"torchvision/{name}", member.name)
            assert addresses[-1] == member.url
            assert re.search(r"-[0-9a-f]{8,}$", found.path.stem), found
            assert member.url in found.source
            preset = member.transforms()
            assert found.side == preset.crop_size[0]
            assert round(found.side / found.crop) == preset.resize_size[0]
            assert found.interpolation == preset.interpolation.value
            assert found.interpolation in ("bilinear", "bicubic")
            assert ("SWAG" in found.licence) or "SWAG" not in member.name
            assert found.num_classes == 1000
            if name not in zoo.AUXILIARY_WEIGHTS:
                assert (list(found.mean), list(found.std)) == (preset.mean, preset.std)
        find_weights(f"torchvision/{name}", "")


def test_all_of_timm_is_described_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(repository: str, name: str) -> tuple[Path, str]:
        return Path(repository) / name, "address"

    monkeypatch.setattr("deepcnn.models.pretrained.hub_file", note)
    names = [name for name in timm.list_pretrained()[::150] if "_enc" not in name]
    for name in names:
        config: Any = timm.get_pretrained_cfg(name)
        if not config.hf_hub_id:
            assert "as safetensors" in refusal(f"timm/{name}")
            continue
        found = find_weights(f"timm/{name}", "")
        assert found == find_weights(f"timm/{name.partition('.')[0]}", config.tag) or (
            found.path == Path(config.hf_hub_id) / "model.safetensors"
        )
        assert 0 < found.crop <= 1
        assert len(found.mean) == len(found.std) == 3
        assert found.interpolation in ("bilinear", "bicubic")
        assert found.licence
        assert found.num_classes >= 0


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("lenet5", "", "there are no published weights for lenet5; give the path of a "),
        ("resnet18", "IMAGENET1K_V9", "unknown weights for resnet18 'IMAGENET1K_V9'; did you "),
        ("torchvision/resnt18", "", "unknown model 'torchvision/resnt18'; did you mean one of: "),
        ("keras/resnet18", "", "unknown library 'keras'"),
        (TINY, "r160", "unknown model 'timm/test_resnet.r160'; did you mean one of: timm/test_res"),
        ("resnet18", "./no.safetensors", "model.weights: no.safetensors is no file; give a "),
        ("resnet18", "no.safetensors", "model.weights: no.safetensors is no file; give a "),
    ],
)  # fmt: skip
def test_unknown_names(model: str, weights: str, message: str, no_network: None) -> None:
    assert refusal(model, weights).startswith(message)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (library, f"{library}.models"):
        monkeypatch.setitem(sys.modules, module, None)  # what makes an import fail
    model = TINY if library == "timm" else "resnet18"
    assert refusal(model).endswith("Install it with: pip install 'deepcnn[zoo]'")


# Files of one's own


def save(model: nn.Module, path: Path) -> Path:
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def test_a_file_is_prepared_for_as_the_network_is_published(
    tmp_path: Path, no_network: None
) -> None:
    path = save(tiny(), tmp_path / "own.safetensors")
    for model, crop, mean in (
        (TINY, 0.95, 0.5),
        ("torchvision/resnet50", 224 / 232, 0.485),
        ("torchvision/googlenet", 0.875, 0.5),
        ("resnet50", 0.875, 0.485),
        ("compact", 0.875, 0.485),
    ):
        found = find_weights(model, str(path))
        assert (found.path, found.model, found.licence) == (path, model, "not known")
        assert (found.crop, found.mean[0]) == (crop, mean), model
        assert found.source.startswith(f"{path}, ")
    assert "usual for ImageNet" in found.source


NUMBERS = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=4)


@given(NUMBERS, st.sampled_from(["{}", " {}", "{} ", "+{}"]))
def test_a_file_says_itself_how_pixels_are_scaled(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], form: str
) -> None:
    path = tmp_path_factory.mktemp("own") / "w.safetensors"
    facts = {"mean": ",".join(f"{-x}" for x in numbers), "std": ",".join(map(form.format, numbers))}
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, facts)
    found = find_weights("compact", str(path))
    assert found.mean == tuple(-x for x in numbers)
    assert found.std == tuple(numbers)
    assert found.source.endswith("; mean and deviation as the file states")


@pytest.mark.parametrize(
    ("mean", "std"),
    [("", ""), ("0.5", "x"), ("0.5,0.5", "0.5"), ("0.5", "0"), ("0.5", "-1"), ("nan", "1"),
     ("0.5", "inf"), ("0.5", "nan"), ("[0.5]", "[0.5]"), ("0.5;0.5", "1;1")],
)  # fmt: skip
def test_a_file_that_says_it_badly_is_refused(mean: str, std: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"mean": mean, "std": std})
    message = refusal("compact", str(path))
    assert (
        f"the metadata of {path} have mean {mean!r} and std {std!r}, expected a number" in message
    )


def test_a_pickle_of_ones_own_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "weights-00000000.pth"
    path.write_bytes(pickled({"a": torch.zeros(1)}))
    assert "cannot be read as safetensors" in refusal("resnet18", str(path))


def test_a_real_file_names_real_photos() -> None:
    path = DATA / "weights/mobilenetv2_100-imagenet.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found = find_weights("timm/mobilenetv2_100", str(path))
    assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)  # not those of timm's own weights
    model = zoo.landmark("timm/mobilenetv2_100").build(1000, 3, found.side)
    assert load_pretrained(model, found) == []
    library: Any = timm.data
    classes = library.ImageNetInfo().label_names()
    pictures = first_photos(20)
    with torch.no_grad():
        logits = model.eval()(torch.stack([prepared(image, found) for _, image in pictures]))
    named = [classes[index] for index in logits.argmax(1)]
    assert sum(name == truth for name, (truth, _) in zip(named, pictures, strict=True)) >= 15


def prepared(image: Image.Image, found: Pretrained) -> Tensor:
    scale = round(found.side / found.crop) / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - found.side) // 2, (height - found.side) // 2
    box = (left, top, left + found.side, top + found.side)
    kind = Image.Resampling[found.interpolation.upper()]
    pixels = np.array(image.resize((width, height), kind).crop(box), np.float32) / 255
    pixels = (pixels - np.array(found.mean, np.float32)) / np.array(found.std, np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)


# Files that do not fit as they are


def small(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("compact", classes, 3, 28).eval()


def test_a_file_without_the_last_layer_leaves_it_as_it_is(tmp_path: Path) -> None:
    state = {k: x for k, x in small(seed=1).state_dict().items() if not k.startswith("output")}
    path = tmp_path / "features.safetensors"
    safetensors.torch.save_file(state, path)
    model = small(classes=4, seed=2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert load_weights(model, path) == [
        "features.safetensors has no output.weight and output.bias: the last layer begins anew"
    ]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state.get(key, before[key])), key


@pytest.mark.parametrize("name", ["googlenet", "torchvision/googlenet"])
def test_auxiliary_heads_for_other_classes_begin_anew_too(name: str, tmp_path: Path) -> None:
    path = save(build(name, 6, 3, 64), tmp_path / "w.safetensors")
    model = build(name, 4, 3, 64)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    notes = load_weights(model, path)
    assert len(notes) == 6  # weight and bias of three heads
    assert all(note.endswith(" was made for 6 classes and begins anew for 4") for note in notes)
    anew = {note.partition(" ")[0] for note in notes}
    assert ("output.bias" if name == "googlenet" else "fc.bias") in anew
    saved = safetensors.torch.load_file(path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key] if key in anew else saved[key]), key


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
def test_numbers_that_are_none_are_refused(
    number: float, kind: torch.dtype, tmp_path: Path
) -> None:
    model = small()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = {key: tensor.to(kind) for key, tensor in small(seed=1).state_dict().items()}
    state["stage3.norm.running_var"][5] = number
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    expected = f"{path} holds numbers in stage3.norm.running_var that are infinite or not numbers"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_weights(model, path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
