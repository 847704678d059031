"""The page about a run: what stands on it is true, complete and harmless, and is all there is."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from deepcnn import files, models, predictions, runlog, train
from deepcnn.cli import main
from deepcnn.data.arrays import read_folder
from deepcnn.evaluate import summary
from deepcnn.predictions import Predictions
from deepcnn.report.document import document
from deepcnn.report.gather import Record, read_record, test_images
from deepcnn.report.page import rendered, run_page
from deepcnn.settings import from_dict, resolve
from deepcnn.train import fit
from faults import (
    MINI,
    SMALL,
    config_of,
    signals_restored,
    stop_early,
    torch_restored,
    write_images,
)

test_images.__test__ = False  # type: ignore[attr-defined]  # is no test, but what a test set is

EPOCHS, VOID = 3, {"meta", "link", "img", "br"}
HOSTILE = [
    "\"quoted\" 'name' & <b>bold</b>",
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
]


class Page(HTMLParser):
    """What a browser without scripts gets from a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.skeleton: list[tuple[str, ...]] = []  # tags with the names of their attributes
        self.attributes: list[tuple[str, str, str]] = []
        self.pictures: dict[str, list[str]] = {}  # sources by description
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {}  # what stands in each kind of element
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.skeleton.append((tag, *(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = dict(attrs)
        if tag == "img":
            self.pictures.setdefault(given["alt"] or "", []).append(given["src"] or "")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        for tag in set(self.open):
            self.inside[tag][-1] += data
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, first_heading: str) -> list[list[str]]:
        """The rows below the headings of the one table that begins with that heading."""
        (rows,) = (table[1:] for table in self.tables if table[0][0] == first_heading)
        return rows


class World(NamedTuple):
    """A data set, two finished runs of it, and one that was stopped in its second epoch."""

    data: Path
    run: Path
    other: Path
    stopped: Path


@pytest.fixture(scope="module", autouse=True)
def _small_network() -> Iterator[None]:
    with mock.patch.dict(models.MODELS, {"mini": MINI}), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runlog, "_commit", lambda: "c0ffee")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """No test may change it."""
    folder = tmp_path_factory.mktemp("report")
    data = write_images(folder / "toy", num_test=60)
    given = World(data, folder / "run", folder / "other", folder / "stopped")
    learn(given.run, data)
    learn(given.other, data, **{"train.seed": 1, "optim.lr": 0.02})
    stop_early({**SMALL, "data.name": str(data)}, given.stopped, updates=12)
    return given


def learn(run: Path, data: Path, live: bool = False, **more: object) -> None:
    config = config_of({**SMALL, "optim.lr": 0.005, "data.name": str(data), **more})
    with torch_restored():
        fit(config, run, run.parent / "cache", live=live)


def page_of(run: Path) -> Page:
    return Page(document([run]))


def answers(run: Path, split: str = "test") -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels, answers and probabilities at the temperature of the run, by NumPy."""
    said = predictions.kept(run)[split]
    meta = json.loads((run / "model" / "meta.json").read_bytes())
    logits = said.logits.double().numpy()
    powers = np.exp((logits - logits.max(1, keepdims=True)) / (meta["temperature"] or 1))
    return said.labels.numpy(), logits.argmax(1), powers / powers.sum(1, keepdims=True)


def picture(source: str) -> Image.Image:
    kind, _, content = source.partition(";base64,")
    assert kind == "data:image/png"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def call(*arguments: object) -> int:
    with signals_restored(), torch_restored(), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_results_are_those_of_scikit_learn_and_scipy(world: World) -> None:
    page = page_of(world.run)
    for row, split in zip(page.table("images"), ("test", "validation"), strict=True):
        labels, said, _ = answers(world.run, split)
        interval = binomtest(int((labels == said).sum()), len(labels)).proportion_ci(
            method="wilson"
        )
        assert row[:4] == [
            split, str(len(labels)), f"{accuracy_score(labels, said):.2%}",
            f"{interval.low:.2%} to {interval.high:.2%}",
        ]  # fmt: skip
    labels, said, _ = answers(world.run)
    found = [list(map(int, row[1:])) for row in page.table("") if len(row) == 4]
    assert found == confusion_matrix(labels, said, labels=range(3)).tolist()
    recalls = recall_score(labels, said, labels=range(3), average=None)
    assert [row[2] for row in page.table("class")] == [f"{recall:.1%}" for recall in recalls]


def test_the_gallery_shows_the_surest_mistakes_and_the_nearest_to_a_boundary(world: World) -> None:
    page = page_of(world.run)
    labels, said, shares = answers(world.run)
    wrong = np.flatnonzero(labels != said)
    assert len(wrong), "the network has to make a mistake"
    surest = wrong[np.argsort(-shares.max(1)[wrong], kind="stable")][:20]
    ranked = np.sort(shares, axis=1)
    nearest = np.argsort(np.log(ranked[:, -1] / ranked[:, -2]), kind="stable")[:20]
    expected = [f"test image {index}" for index in (*surest, *nearest)]
    captions = page.inside["figcaption"]
    assert [re.findall(r"test image \d+", caption)[0] for caption in captions] == expected
    images = read_folder(world.data, "test").images
    for index, caption in zip((*surest, *nearest), captions, strict=True):
        first, second = np.argsort(-shares[index], kind="stable")[:2]
        words = f"label {labels[index]}{first} {shares[index][first]:.1%}"
        assert caption.startswith(f"{words}{second} {shares[index][second]:.1%}")
        for source in page.pictures[f"test image {index}"]:
            assert np.array_equal(np.asarray(picture(source)), images[index][0])


def test_filters_are_shown_to_their_own_scale(world: World) -> None:
    page = page_of(world.run)
    record = read_record(world.run)
    assert record.finished
    weight = record.finished.model.state_dict()["conv1.weight"].double().numpy()[:, 0]
    (source,) = page.pictures["filters of the first layer"]
    for index, each in enumerate(weight):
        shown = tile(source, *divmod(index, 3))
        assert np.abs(shown - 127.5 * (1 + each / np.abs(each).max())).max() <= 0.51
    (source,) = page.pictures["filters over the epochs"]
    assert picture(source).height == (EPOCHS + 1) * 26
    kept = np.stack([each.double().numpy()[:, 0] for each in record.kept_filters().values()])
    for epoch, filters in enumerate(kept):
        for index, each in enumerate(filters):
            expected = 127.5 * (1 + each / np.abs(kept[:, index]).max())
            assert np.abs(tile(source, epoch, index) - expected).max() <= 0.51
    assert np.array_equal(kept[-1].astype(np.float32), weight.astype(np.float32))


def tile(source: str, row: int, column: int) -> NDArray[Any]:
    """The pixels of a 3x3 filter in rows of squares of 24 pixels, 2 apart."""
    pixels = np.asarray(picture(source).convert("L")).astype(float)
    centres = np.arange(3) * 8 + 4
    return pixels[26 * row + centres][:, 26 * column + centres]


def test_the_recipe_on_the_page_is_the_recipe(world: World, tmp_path: Path) -> None:
    settings_shown = page_of(world.run).inside["pre"][-1]
    (tmp_path / "recipe.toml").write_text(settings_shown)
    base = ("fashion-mnist", config_of({}))
    config, _ = resolve(base, tmp_path / "recipe.toml", {}, {})
    assert config == from_dict(json.loads((world.run / "config.json").read_bytes()), "test")


def test_the_page_tells_data_machine_and_cost(world: World) -> None:
    text = page_of(world.run).text
    facts = json.loads((world.run / "environment.json").read_bytes())
    # By hand: 4 filters of 3x3 on 10x10 places, 6 of 4x3x3 on 3x3, and 6x3.
    expected = [
        "training images 80", "held out images 16", "test images 60", "network input 1x12x12",
        "commit c0ffee", "multiply-adds of an image 5,562", "images a second",
        facts["data_fingerprint"], facts["machine"]["processor"], facts["versions"]["torch"],
    ]  # fmt: skip
    for words in expected:
        assert words in text, words


def test_where_the_time_went_is_told(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.run, tmp_path / "run")
    phases = json.loads((run / "model" / "meta.json").read_text())["phases"]
    rows = page_of(run).table("phase")
    assert {row[0] for row in rows} == set(phases)
    shares = [float(row[2].removesuffix("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert float(rows[0][2].removesuffix("%")) == pytest.approx(
        100 * max(phases.values()) / sum(phases.values()), abs=0.05
    )


def test_what_a_glance_found_is_told(world: World, tmp_path: Path) -> None:
    assert "no copies across its parts" in page_of(world.run).text
    data = shutil.copytree(world.data, tmp_path / "leaky")
    for kind in ("images-idx3", "labels-idx1"):
        shutil.copy(data / f"train-{kind}-ubyte.gz", data / f"t10k-{kind}-ubyte.gz")
    learn(tmp_path / "run", data)
    assert "warning: test images that are training images too: 80 of 96" in page_of(
        tmp_path / "run"
    ).text  # fmt: skip


def test_the_page_of_training_is_that_of_the_command(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (world.run / "report.html").read_bytes()
    before = hashes(world.run)
    for _ in range(2):
        assert call("report", world.run, "--out", tmp_path / "page.html") == 0
        assert (tmp_path / "page.html").read_bytes() == written
    assert hashes(world.run) == before
    copy = shutil.copytree(world.run, tmp_path / "run")
    (copy / "report.html").unlink()
    assert call("report", copy) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(copy / "report.html")
    assert hashes(copy).keys() == before.keys()
    assert {**hashes(copy), "report.html": ""} == {**before, "report.html": ""}


def test_comparing_changes_no_run(world: World, tmp_path: Path) -> None:
    before = hashes(world.data.parent)
    assert call("report", world.run, world.other, "--out", tmp_path / "both.html") == 0
    assert hashes(world.data.parent) == before


def test_runs_side_by_side(world: World) -> None:
    page = Page(document([world.run, world.other]))
    assert [row[2:4] for row in page.tables[0][1:]] == [["mini", share(world.run)],
                                                       ["mini", share(world.other)]]  # fmt: skip
    assert page.table("setting") == [["optim.lr", "0.005", "0.02"], ["train.seed", "0", "1"]]
    right = [np.equal(*answers(run)[:2]) for run in (world.run, world.other)]
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    assert f"{gained:,} right that were wrong, {lost:,} the other way" in page.text
    recalls = [
        recall_score(*answers(run)[:2], labels=range(3), average=None)
        for run in (world.run, world.other)
    ]
    expected = [[f"{recall:.1%}" for recall in each] for each in zip(*recalls, strict=True)]
    assert [row[2:] for row in page.table("class")] == expected


def share(run: Path) -> str:
    return f"{accuracy_score(*answers(run)[:2]):.2%}"


def test_a_page_needs_nothing_else(world: World) -> None:
    for text in (document([world.run]), document([world.run, world.other])):
        page = Page(text)
        for tag, name, value in page.attributes:
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
            assert not name.startswith("on"), (tag, name)
        for style in page.inside["style"]:
            assert "@import" not in style
            assert "url(" not in style
        (policy,) = (value for _, name, value in page.attributes if "default-src" in value)
        assert policy.startswith("default-src 'none'; img-src data:; ")
        for kind in ("style", "script"):
            (content,) = page.inside[kind]
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}';" in policy


def test_no_date_and_no_chance_is_in_a_picture(world: World) -> None:
    (source,) = page_of(world.run).pictures["accuracy by epoch"]
    drawing = base64.b64decode(source.partition(";base64,")[2]).decode()
    assert drawing.lstrip().startswith("<?xml")
    assert not re.search(r"<dc:|20\d\d-\d\d-\d\d|matplotlib\.org", drawing)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs on the same pictures: of plain names, and of names that are meant to do harm."""
    folder = tmp_path_factory.mktemp("names")
    plain = picture_run(folder / "plain", ["a", "b", "c", "d"], "picture")
    odd = os.fsdecode(b"\xff") if sys.platform == "linux" else "odd"
    named = f"<img src=x onerror=alert(1)>'\"{odd}"
    return plain, picture_run(folder / f'a "b" <i>\'{odd}', sorted(HOSTILE), named)


def picture_run(folder: Path, classes: list[str], name: str) -> Path:
    """A run on pictures of a CSV file, with those names of classes and files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    if not name.isascii():  # a table is UTF-8, so the odd bytes are in the folder only
        name = name.encode("ascii", "ignore").decode()
    lines = ["path,label"]
    for index in range(80):
        label = index % 4
        pixels = generator.integers(0, 60, (12, 12), dtype=np.uint8)
        pixels[3 * label : 3 * label + 3] += np.uint8(60)
        path = folder / f"{name} {index:02}.png"
        Image.fromarray(pixels).save(path)
        cells = (path.name, classes[label])
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    learn(folder / "run", folder / "table.csv", **{"data.size": 12, "data.test": 40})
    return folder / "run"


def test_names_are_words_and_nothing_else(hostile: tuple[Path, Path]) -> None:
    plain, harmful = (page_of(run) for run in hostile)
    assert harmful.skeleton == plain.skeleton
    names = [row[0] for row in harmful.table("class")]
    escaped = "\N{HEBREW LETTER ALEF}\\u202egnp.exe"
    assert names == [*sorted(HOSTILE)[:-1], escaped]
    assert "<img src=x onerror=alert(1)>'\"" in harmful.inside["figcaption"][0]
    if sys.platform == "linux":
        assert '/a "b" <i>\'\\udcff/table.csv' in harmful.text
    assert "gnp.exe" in harmful.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in document([hostile[1]])


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(), max_size=30), min_size=2, max_size=4))
def test_any_text_is_words_and_nothing_else(texts: list[str]) -> None:
    def page(*words: str) -> Page:
        return Page(rendered(
            "comparison.html", title=words[0], refresh=0, head=["run"],
            rows=[("A", [(words[1], None)])], sentences=words, curves=[],
            settings=[("data.name", words)], classes=[], commands=words,
        ))  # fmt: skip

    def told(text: str) -> str:
        """By the rule: what can be printed stays as it is."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

    found = page(*texts)
    assert found.skeleton == page(*("x" for _ in texts)).skeleton
    assert found.inside["h1"] == [told(texts[0])]
    assert found.table("setting") == [["data.name", *map(told, texts)]]
    assert found.inside["pre"][0].removeprefix("\n") == "".join(f"{told(text)}\n" for text in texts)


def test_a_run_that_is_not_finished_tells_what_is_known(world: World) -> None:
    page = page_of(world.stopped)
    assert "mini on" in page.text
    assert "not finished, epochs done: 1 of 3" in page.text
    assert "measured when the run is finished" in page.text
    (first,) = (event for event in events(world.stopped) if event["event"] == "epoch")
    assert f"validation accuracy {first['validation_accuracy']:.2%} after epoch 1" in page.text
    assert list(page.pictures) == [
        "training loss by update", "accuracy by epoch", "filters of the first layer",
        "filters over the epochs",
    ]  # fmt: skip
    assert "training images 80" in page.text
    assert ("meta", "http-equiv", "refresh") not in page.attributes


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_run_that_has_just_begun_has_a_page(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.stopped, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "events.jsonl").unlink()
    page = page_of(run)
    assert "epochs done: 0 of 3" in page.text
    assert page.pictures == {}
    assert "multiply-adds of an image 5,562" in page.text


def test_an_event_that_is_being_written_is_passed_over(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.stopped, tmp_path / "run")
    whole = document([run])
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "epoch", "epoch": 2, "st')
    assert document([run]) == whole


def test_training_rewrites_a_live_page_after_each_epoch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    original = train.report

    def kept_report(run: Any, live: bool = False) -> None:
        original(run, live)
        pages.append((run.folder / "report.html").read_text(encoding="utf-8"))

    monkeypatch.setattr(train, "report", kept_report)
    run = tmp_path / "run"
    learn(run, world.data, live=True)
    done = [re.findall(r"epochs done: (\d) of 3", page)[0] for page in pages]
    assert done == ["0", "1", "2", "3"]
    assert all('http-equiv="refresh"' in page for page in pages)
    last = (run / "report.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in last
    assert "test accuracy" in Page(last).text
    ignored = runlog.MEASURED_FIELDS | {"command"}
    same = [
        {key: value for key, value in event.items() if key not in ignored}
        for each in (run, world.run)
        for event in events(each)
    ]
    assert same[: len(same) // 2] == same[len(same) // 2 :]


def test_a_page_that_cannot_be_written_spoils_no_run(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    learn(tmp_path / "run", world.data, live=True)
    assert (tmp_path / "run" / "model" / "manifest.json").exists()
    said = capsys.readouterr().err
    assert said.count("warning: cannot write") == 1, "once, not after each epoch"
    assert "run/report.html: Is a directory" in said


def test_data_that_is_gone_or_another_is_said(world: World, tmp_path: Path) -> None:
    data = shutil.copytree(world.data, tmp_path / "toy")
    learn(tmp_path / "run", data)
    assert Page(document([tmp_path / "run"])).pictures["test image 0"]
    images = data / "t10k-images-idx3-ubyte.gz"
    images.unlink()
    page = page_of(tmp_path / "run")
    assert "Without pictures: the test images cannot be read: " in page.text
    assert "test image" in page.inside["figcaption"][0]
    assert not any(name.startswith("test image") for name in page.pictures)
    shutil.rmtree(data)
    write_images(data, num_test=59)
    assert "other images than those that the run was tested on" in page_of(tmp_path / "run").text


def test_a_data_set_is_not_downloaded_for_a_page(world: World, tmp_path: Path) -> None:
    record = read_record(world.run)
    other = replace(record.config.data, name="mnist", root=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        why = test_images(replace(record, config=replace(record.config, data=other)))
    assert isinstance(why, str)
    assert "mnist is not here" in why
    assert list(tmp_path.iterdir()) == []


def test_without_held_out_images(world: World, tmp_path: Path) -> None:
    learn(tmp_path / "run", world.data, **{"data.validation": 0})
    page = page_of(tmp_path / "run")
    assert "No images were held out, so no temperature was fitted" in page.text
    assert [row[0] for row in page.table("images")] == ["test"]
    assert "reliability: with temperature" not in page.pictures


def test_a_single_test_image(tmp_path: Path) -> None:
    data = write_images(tmp_path / "toy", num_test=1)
    learn(tmp_path / "run", data)
    page = page_of(tmp_path / "run")
    assert [row[1] for row in page.table("class")] == ["1", "0", "0"]
    assert [row[2] for row in page.table("class")][1:] == ["-", "-"]


def test_a_run_of_an_earlier_version_has_no_answers(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.run, tmp_path / "run")
    (run / "predictions.safetensors").unlink()
    facts = json.loads((run / "environment.json").read_bytes())
    del facts["data"]
    (run / "environment.json").write_text(json.dumps(facts))
    change_meta(run, lambda meta: meta | {"test": earlier(meta["test"]), "validation": None})
    page = page_of(run)
    assert "No answers are kept" in page.text
    assert page.table("images")[0][2] == share(world.run)
    assert [row[4] for row in page.table("class")] == ["-"] * 3
    assert "was not written down" in page.text


def earlier(test: dict[str, Any]) -> dict[str, Any]:
    """What was measured before calibration and precision were."""
    named = ("accuracy", "interval", "num_images", "loss")
    rows = [
        {key: row[key] for key in ("name", "num_images", "correct", "recall")}
        for row in test["per_class"]
    ]
    return {name: test[name] for name in named} | {"per_class": rows}


def change_meta(run: Path, change: Any) -> None:
    """A model with other facts, and a manifest that is right."""
    content = files.read_folder(run / "model")
    content["meta.json"] = json.dumps(change(json.loads(content["meta.json"]))).encode()
    shutil.rmtree(run / "model")
    files.commit_folder(run / "model", content)


def of_answers(record: Record, logits: torch.Tensor, labels: torch.Tensor) -> Page:
    """The page of a run that had given these answers."""
    assert record.finished
    classes = tuple(f"class {index}" for index in range(logits.shape[1]))
    answers = Predictions(logits, labels)
    meta = {**record.finished.meta, "test": summary(answers, classes)}
    finished = replace(record.finished, classes=classes, meta=meta)
    changed = replace(record, finished=finished, answers={"test": answers})
    return Page(run_page(changed, "they are gone"))


def test_a_thousand_classes(world: World) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3_000) % 1_000
    logits = torch.randn(3_000, 1_000, generator=generator)
    logits[torch.arange(3_000), (labels + 1) % 1_000] += 6
    page = of_answers(read_record(world.run), logits, labels)
    (source,) = page.pictures["confusion matrix of 1000 classes"]
    shown = np.asarray(picture(source)).astype(float)
    counts = confusion_matrix(labels, logits.argmax(1), labels=range(1_000))
    assert np.abs(shown - 255 * (1 - np.sqrt(counts / 3))).max() <= 0.51
    assert len(page.table("class")) == 1_000
    assert len(page.table("label")) == 12
    most = max(counts[i, j] for i in range(1_000) for j in range(1_000) if i != j)
    assert page.table("label")[0][2] == str(most)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_few_classes(world: World, num_classes: int) -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    page = of_answers(read_record(world.run), torch.zeros(5, num_classes), labels)
    assert [row[0] for row in page.table("class")] == [f"class {i}" for i in range(num_classes)]
    assert page.table("images")[0][2] == "100.00%"


def test_images_without_an_answer(world: World) -> None:
    logits = torch.tensor([[2.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [0.0, 1.0]])
    page = of_answers(read_record(world.run), logits, torch.tensor([0, 0, 1, 1]))
    assert "not every logit was finite, to test images: 2." in page.text
    assert page.table("images")[0][2] == "50.00%"
    assert sum("no answer" in caption for caption in page.inside["figcaption"]) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES: dict[str, Any] = {
    "model is damaged": lambda run: truncate(run / "model" / "weights.safetensors"),
    "has schema 99": lambda run: change_meta(run, lambda meta: meta | {"schema": 99}),
    "holds no finished model": lambda run: (run / "model" / "meta.json").unlink(),
    "no_such": lambda run: change_meta(run, lambda meta: meta | {"config": {"a": {"no_such": 1}}}),
    "cannot tell of": lambda run: change_meta(run, lambda meta: meta | {"test": {"accuracy": 1}}),
    "predictions.safetensors, where": lambda run: truncate(run / "predictions.safetensors"),
    "events.jsonl is not what": lambda run: (run / "events.jsonl").write_text("{\n"),
    "is no event": lambda run: (run / "events.jsonl").write_text("[1]\n"),
    "version cannot tell of": lambda run: (run / "events.jsonl").write_text('{"event": "step"}\n'),
    "environment.json is not what": lambda run: (run / "environment.json").write_text("[1]"),
    "config.json": lambda run: (run / "config.json").write_text('{"a": {"b": 1}}'),
    "holds no run": lambda run: (run / "environment.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_run_is_one_line(
    message: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(world.run, tmp_path / "run")
    DAMAGES[message](run)
    if message == "cannot tell of":
        (run / "predictions.safetensors").unlink()
    before = hashes(run)
    capsys.readouterr()
    assert call("report", run) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert hashes(run) == before


def test_runs_that_are_not_finished_are_not_compared(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert call("report", world.run, world.stopped, "--out", tmp_path / "page.html") == 2
    assert "stopped holds no finished model" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where it is installed."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with library.sync_playwright() as playwright:
        try:
            # As root, which containers often are, it has no sandbox.
            chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except library.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(
    world: World, hostile: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {
        "run": [world.run], "stopped": [world.stopped], "names": [hostile[1]],
        "comparison": [world.run, world.other, hostile[1]],
    }  # fmt: skip
    paths = {name: folder / f"{name}.html" for name in runs}
    for name, path in paths.items():
        path.write_text(document(runs[name]), encoding="utf-8")
    return paths


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("kind", ["run", "stopped", "names", "comparison"])
def test_in_a_browser(kind: str, width: int, browser: Any, pages: dict[str, Path]) -> None:
    address, happened = pages[kind].as_uri(), []
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.on("console", lambda message: happened.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: happened.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (happened.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: happened.append(f"request: {request.url[:80]}"))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert [each for each in happened if not each.startswith("request: data:")] == [
        f"request: {address}"
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((each) => each.naturalWidth > 0)")
    page.close()


def test_a_table_is_sorted_by_its_headings(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["run"].as_uri())
    heading = page.locator("#classes + div th", has_text="recall")
    cells = page.locator("#classes + div tbody td:nth-child(3)")
    shares = [float(text.rstrip("%")) for text in cells.all_inner_texts()]
    assert len(set(shares)) > 1
    heading.click()
    assert [float(text.rstrip("%")) for text in cells.all_inner_texts()] == sorted(shares)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.press("Enter")
    assert [float(text.rstrip("%")) for text in cells.all_inner_texts()] == sorted(shares)[::-1]
    names = page.locator("#classes + div th", has_text="class")
    names.click()
    first = page.locator("#classes + div tbody td:nth-child(1)").all_inner_texts()
    assert first == sorted(first)
    page.close()


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_page_is_whole_without_scripts(kind: str, browser: Any, pages: dict[str, Path]) -> None:
    texts = []
    for scripts in (True, False):
        context = browser.new_context(java_script_enabled=scripts)
        page = context.new_page()
        page.goto(pages[kind].as_uri())
        texts.append(page.inner_text("body"))
        context.close()
    assert texts[0] == texts[1]
    assert len(texts[0]) > 500
