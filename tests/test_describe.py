import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcnn import cli, describe, diagram
from deepcnn.errors import ConfigError
from deepcnn.models import MODELS


def call(*arguments: str, command: str = "models") -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([command, *arguments])
    return int(end.value.code or 0)


def test_the_list_has_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(MODELS)
    for row in rows:
        assert set(row) == {"name", "year", "parameters", "multiply_adds", "input", "paper"}
        assert row["year"] in range(1980, 2030)
        assert row["parameters"] > 0
        assert row["multiply_adds"] > 0
        assert row["paper"]
    assert call() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)


def test_a_page_agrees_with_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("lenet", "--input", "3x32x32", "--classes", "7")
    assert call(*arguments, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["input"], facts["classes"]) == ("3x32x32", 7)
    assert facts["layers"][0] == {
        "name": "c1", "kind": "Conv2d", "output": [6, 28, 28], "parameters": 6 * 76,
        "multiply_adds": 6 * 28 * 28 * 75, "activation_bytes": 4 * 6 * 28 * 28,
    }  # fmt: skip
    assert facts["parameters"] == sum(layer["parameters"] for layer in facts["layers"])
    assert call(*arguments) == 0
    page = capsys.readouterr().out
    for layer in facts["layers"]:
        assert f"{layer['multiply_adds']:,}" in page
    for entry in (*facts["reported"], *facts["training"], *facts["differences"]):
        assert entry in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenett",), "unknown model 'lenett'; did you mean lenet?"),
        (("lenet", "--input", "32x32"), "the input is '32x32', expected CHANNELSxHEIGHTxWIDTH"),
        (("lenet", "--input", "0x32x32"), "the input is '0x32x32', expected"),
        (("lenet", "--input", "1x9999x9999"), "the input is '1x9999x9999', expected"),
        (("lenet", "--input", "1x32x33"), "the input is 1x32x33, expected a square such as"),
        (("lenet", "--input", "1x28x28"), "lenet cannot take 28x28 images; it takes images from"),
        (("lenet", "--classes", "0"), "the number of classes is 0, expected at least 1"),
    ],
)
@pytest.mark.parametrize("command", ["models", "profile"])
def test_networks_that_cannot_be_are_one_line(
    command: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments, command=command) == 2
    is_one_line(message, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet", "--svg", "nowhere/x.svg"), "cannot write nowhere/x.svg: No such file"),
        (("--svg", "x.svg"), "--input, --classes and --svg need a NAME"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    is_one_line(message, capsys)


def is_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert message in err


@given(st.text(max_size=20))
def test_a_shape_is_three_sizes_or_refused(text: str) -> None:
    try:
        shape = describe.parse_shape(text)
    except ConfigError:
        return
    assert "x".join(map(str, shape)) == "x".join(part.lstrip("0") for part in text.split("x"))


@given(st.integers(0, 10**13))
def test_scaled_keeps_three_digits(number: int) -> None:
    value, _, unit = describe.scaled(number).partition(" ")
    size = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert float(value) * size == pytest.approx(number, rel=0.006)


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_is_whole(name: str) -> None:
    drawn = ElementTree.fromstring(diagram.svg(describe.describe(name)))
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    kind = "{http://www.w3.org/2000/svg}"
    boxes = [
        {key: float(box.attrib[key]) for key in ("x", "y", "width", "height")}
        for box in drawn.iter(f"{kind}rect")
        if "x" in box.attrib
    ]
    assert 3 <= len(boxes) <= diagram.MANY + 1
    for left, right in pairwise(boxes):
        assert left["x"] + left["width"] < right["x"]
    for box in boxes:
        assert box["y"] > 0
        assert box["x"] + box["width"] < width
    texts = ["".join(text.itertext()) for text in drawn.iter(f"{kind}text")]
    assert texts[0].startswith(f"{name}: ")
    assert all(float(text.attrib["y"]) < height for text in drawn.iter(f"{kind}text"))


def test_svg_goes_where_a_link_leads(tmp_path: Path) -> None:
    """A path may be a link or a device, /dev/stdout is both: it must not be replaced by a file."""
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    assert call("compact", "--svg", str(link)) == 0
    assert link.is_symlink()
    assert file.read_text().startswith("<svg")


def test_svg_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.svg"
    assert call("compact", "--svg", str(path)) == 0
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert capsys.readouterr().out.startswith("compact: ")
