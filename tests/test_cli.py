"""The command line as a person meets it: what it answers, where, and with which exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import CycloptsError
from filelock import FileLock
from PIL import Image

from deepcnn import predict, train
from deepcnn.cli import main
from deepcnn.data import catalog
from deepcnn.data.download import RemoteFile
from deepcnn.errors import ConfigError, DataError, RunError
from deepcnn.recipes import RECIPES
from faults import signals_restored, torch_restored, write_images

# Settings given twice count as given last, so a test can append its own.
SMALL = (
    "--data.name", "./toy", "--data.validation", "0", "--train.epochs", "1",
    "--train.batch_size", "16", "--optim.lr", "0.05", "--hardware.device", "cpu",
    "--hardware.precision", "fp32", "--hardware.layout", "contiguous", "--hardware.threads", "1",
)  # fmt: skip
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")

# What the command line consists of. Whoever changes this changes what people have in scripts.
COMMANDS = {
    "bench": "WHAT --network --recipe --seeds --rounds --root --json",
    "train": "RECIPE --data --out --config --device --precision --device-policy --seed --budget "
    "--overfit --live --print-config --accept-change --json",
    "plan": "WHAT --data --memory --json",
    "diagnose": "WHAT --data --plot --json",
    "evaluate": "RUN --split --data --root --views --accuracy --coverage --device --json",
    "compare": "RUNS --json",
    "sweep": "RECIPE --seeds --grid --out --json",
    "report": "RUNS --out",
    "predict": "RUN IMAGES --top --at-least --json",
    "profile": "WHAT --input --classes --batch --train --device --precision --json --html",
    "recipes": "NAME",
    "models": "NAME --input --classes --svg --json",
    "settings": "",
    "data list": "",
    "data fetch": "NAME --root",
    "data show": "NAME --out --split --per-class --geometry --augment",
    "data check": "NAME --html --labels --group --root --json",
    "data pack": "SOURCE OUT --shards",
    "inspect filters": "RUN --evolution --out",
    "inspect maps": "RUN IMAGE --layer --out",
    "inspect neighbours": "RUN IMAGES --sample --out --json",
    "inspect separability": "RUN --sample --out --json",
    "inspect occlusion": "RUN IMAGES --out",
    "inspect gradcam": "RUN IMAGES --out",
    "inspect patches": "RUN --layer --sample --out",
    "inspect embedding": "RUN --method --sample --out",
    "finetune": "DATA --model --weights --probe-only --freeze --unfreeze-at --class-weights --seed "
    "--budget --out --live --print-config --accept-change --json",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, good and bad, and runs in every state; no test may change it."""
    folder = tmp_path_factory.mktemp("world")
    toy = write_images(folder / "toy")
    (folder / "empty").mkdir()
    (folder / "file").write_text("something")
    (folder / "bad.toml").write_text("[optim")
    with chdir(folder):
        assert call("train", *SMALL, "--out", "run") == 0
    shutil.copytree(folder / "run", folder / "unfinished")
    shutil.rmtree(folder / "unfinished" / "model")
    shutil.copytree(folder / "run", folder / "damaged-run")
    weights = folder / "damaged-run" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.copytree(toy, folder / "damaged")
    images = folder / "damaged" / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-100])
    shutil.copytree(toy, folder / "hollow")
    (folder / "hollow" / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    shutil.copytree(toy, folder / "partial")
    (folder / "partial" / "t10k-images-idx3-ubyte.gz").unlink()
    shutil.copytree(toy, folder / "named")
    (folder / "named" / "classes.txt").write_text("top\nmiddle\nbottom\n")
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(folder / "dark.png")
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("DEEPCNN_") or name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("deepcnn.device.available_threads", lambda: 1)
    monkeypatch.setattr("deepcnn.progress.LINE_SECONDS", 1e9)  # also where a test takes long


@pytest.fixture
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`world`, entered for one test."""
    monkeypatch.chdir(world)
    return world


def call(*arguments: object) -> int:
    """The exit code of a command that is run in this process."""
    with signals_restored(), torch_restored(), pytest.raises(SystemExit) as stop:
        torch.set_num_threads(1)
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def start(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as it is installed."""
    program = f"import sys; from deepcnn.cli import program; sys.argv[1:] = {list(arguments)!r}"
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    command = [sys.executable, "-W", "error", "-c", f"{program}; program()"]
    return subprocess.run(command, check=False, **how)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what is in the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def unique(lines: str) -> str:
    """The one line that there is, without its end."""
    assert lines.count("\n") == 1, lines
    assert lines.endswith("\n")
    return lines[:-1]


BAD_SETTINGS = [
    ("optim.lrr", "0.1", r"unknown setting optim\.lrr; did you mean optim\.lr\?"),
    ("optm.lr", "0.1", r"unknown setting optm\.lr; did you mean optim\.lr\?"),
    ("a.b.c", "0.1", r"unknown setting a\.b\.c"),
    ("train.epochs", "-1", r"train\.epochs is -1, expected at least 0"),
    ("train.epochs", "1.5", r"train\.epochs is '1\.5', expected a whole number"),
    ("train.epochs", "", r"train\.epochs is '', expected a whole number"),
    ("train.epochs", "1000000000", r"train\.epochs is 1000000000, expected .* at most 100000"),
    ("train.batch_size", "0", r"train\.batch_size is 0, expected at least 1"),
    ("train.batch_size", "97", r"batch_size is 97, but there are only 96 training images"),
    ("train.accumulate", "17", r"accumulate is 17, more than the 16 images of a batch"),
    ("hardware.memory", "much", r"hardware\.memory is 'much', expected an amount such as 8GiB"),
    (
        "hardware.memory",
        "1MB",
        r"memory is 1MB, but before the first image is .* in use .* at least",
    ),
    ("train.seed", "-1", r"train\.seed is -1, expected at least 0"),
    ("train.seed", str(2**64), rf"train\.seed is {2**64}, expected .* at most"),
    ("train.ema", "1", r"train\.ema is 1\.0, expected at least 0 and below 1"),
    ("train.drop_last", "maybe", r"train\.drop_last is 'maybe', expected true or false"),
    ("optim.lr", "0", r"optim\.lr is 0\.0, expected above 0"),
    ("optim.lr", "-0.1", r"optim\.lr is -0\.1, expected above 0"),
    ("optim.lr", "fast", r"optim\.lr is 'fast', expected a number"),
    ("optim.lr", "nan", r"optim\.lr is 'nan', expected a number"),
    ("optim.lr", "inf", r"optim\.lr is 'inf', expected a number"),
    ("optim.momentum", "1", r"optim\.momentum is 1\.0, expected at least 0 and below 1"),
    ("optim.milestones", "a,b", r"optim\.milestones is 'a,b', expected numbers separated by comm"),
    ("optim.milestones", "0.5", r"optim\.milestones belongs to optim\.schedule step"),
    ("data.sure", "0.5", r"data\.sure saves other views .* data\.views plain has not got"),
    (
        "optim.name",
        "sdg",
        r"optim\.name is 'sdg', expected one of sgd, adamw, muon; did you mean sgd\?",
    ),
    ("data.name", "mnits", r"unknown data set 'mnits'; did you mean mnist\?.* fashion-mnist"),
    ("data.name", "./nowhere", r"nowhere is not a folder; give the folder"),
    ("data.name", "./file", r"file is not a folder; give the folder"),
    ("data.name", "./empty", r"'empty' holds no pictures in class folders"),
    ("data.name", "./damaged", r"damaged/train-images\S* is damaged .* expected whole, undamaged"),
    ("data.name", "./hollow", r"train-labels\S* is damaged .* an empty file, expected 00 00 08"),
    ("data.name", "./partial", r"expected a file at partial/t10k-images\S*, found nothing"),
    ("data.size", "-1", r"data\.size is -1, expected at least 0"),
    ("data.size", "7", r"compact cannot take 7x7 images; it takes images of at least 8x8 pixels"),
    ("data.pad", "-1", r"data\.pad is -1, expected at least 0"),
    ("data.validation", "-1", r"data\.validation is -1\.0, expected at least 0"),
    ("data.validation", "96", r"cannot hold out 96 of 96 images: .* between 1 and 95, or 0"),
    ("model.name", "lenett", r"unknown model 'lenett'; did you mean lenet\?"),
    ("model.name", "lenet", r"lenet cannot take 12x12 images; it takes images from 32x32 to 35x35"),
    ("model.init", "whitened", r"whitened is for networks that begin with a whitening layer"),
    ("model.init", "xaver", r"unknown initialiser 'xaver'; did you mean xavier\?"),
    ("hardware.device", "tpu", r"unknown device 'tpu', expected auto, cpu, cuda, cuda:N or mps"),
    ("hardware.device", "cuda:99", r"device cuda:99 is not there: \d+ CUDA devices found"),
    ("hardware.precision", "fp64", r"hardware\.precision is 'fp64', expected one of auto, fp32"),
    ("hardware.threads", "-1", r"hardware\.threads is -1, expected at least 0"),
]
BAD_REQUESTS = [
    ("nope", r'"nope".* train'),
    ("trian", r'"trian".* "train"\?'),
    ("data nope", r'"nope".* list, fetch, show'),
    ("train nope", r"unknown recipe 'nope'\. Choose one of: fashion-mnist, "),
    ("train lenet-minst", r"unknown recipe 'lenet-minst'; did you mean lenet-mnist\?"),
    ("train fashion-mnist again", r"more arguments than expected: again"),
    ("train --nope", r"--nope"),
    ("train --epochs 3", r"--epochs\. Did you mean --train\.epochs\?"),
    ("train --batch-size=3", r"--batch-size.* Did you mean --train\.batch_size\?"),
    ("train --no-json", r"--no-json.* --json\?"),
    ("train --json=maybe", r"--json.*maybe"),
    ("train --optim.lr", r"--optim\.lr needs a value: --optim\.lr VALUE"),
    ("train --out", r"--out"),
    ("train --seed x", r"train\.seed is 'x', expected a whole number"),
    ("train --precision fp8", r"hardware\.precision is 'fp8', expected one of auto, fp32"),
    ("train --budget 10x", r"--budget is '10x', expected a time above 0 in s, m or h, such as 90s"),
    ("train --budget 0s", r"--budget is '0s', expected a time above 0"),
    ("train --budget=-5m", r"--budget is '-5m', expected a time above 0"),
    ("train --train.budget -1", r"train\.budget is -1\.0, expected at least 0"),
    ("train --overfit 5 --budget 1m", r"--overfit ends when the images are known: leave --budget"),
    ("finetune toy --probe-only --budget 1m", r"--probe-only makes no updates that a --budget"),
    ("train --config nowhere.toml", r"cannot read nowhere\.toml: No such file"),
    ("train --config bad.toml", r"bad\.toml is not a TOML file"),
    ("evaluate", r"RUN"),
    ("evaluate nowhere", r"nowhere does not exist; expected a run folder made by `deepcnn train`"),
    ("evaluate file", r"file holds no finished model; expected file/model"),
    ("evaluate empty", r"empty holds no finished model; expected empty/model"),
    (
        "evaluate unfinished",
        r"unfinished holds no finished model.* `deepcnn train \.\.\. --out unf",
    ),
    ("evaluate damaged-run", r"damaged-run/model is damaged: weights\.safetensors is not what was"),
    ("evaluate run --split half", r"half.*--split.*test.*validation.*train"),
    ("evaluate run --split validation", r"no validation images .* use test or train"),
    ("evaluate run --data ./named --split validation", r"no validation images .* use test or trai"),
    (
        "evaluate run --data ./named",
        r"named/test has .* top, middle, bottom; the model of run know",
    ),
    ("evaluate run --data ./nowhere", r"nowhere is not a folder"),
    ("train --overfit 5 --out x", r"--overfit writes nothing, so there is no folder for --out"),
    ("evaluate run --views many", r"unknown views 'many'\. Choose one of: plain, flip"),
    ("evaluate run --accuracy 1.5", r"--accuracy is 1\.5, expected a share above 0, at most 1"),
    ("evaluate run --coverage 0", r"--coverage is 0, expected a share above 0, at most 1"),
    ("evaluate run --coverage 1 --accuracy 1", r"--accuracy and --coverage are two goals"),
    ("evaluate run --coverage 0.5", r"no validation images are held out"),
    ("predict run dark.png --at-least 2", r"--at-least is 2, expected a probability from 0 to 1"),
    ("compare", r"compare needs two or more runs, got 0"),
    ("compare run", r"compare needs two or more runs, got 1"),
    ("compare run unfinished", r"unfinished holds no finished model"),
    ("sweep --seeds 0", r"--seeds is 0, expected at least 1"),
    ("sweep nope", r"unknown recipe 'nope'"),
    ("sweep --grid optim.lr", r"--grid 'optim\.lr' is not SECTION\.FIELD=VALUE,VALUE"),
    ("evaluate run --device tpu", r"unknown device 'tpu', expected auto"),
    ("evaluate run --optim.lr 1", r"--optim\.lr is a setting of training: of `deepcnn train`, "),
    ("plan nope", r"unknown recipe 'nope'"),
    ("plan empty", r"empty is no run folder|unknown recipe"),
    ("plan --memory 3potatoes", r"hardware\.memory is '3potatoes', expected an amount"),
    ("plan --train.epochs 0", r"train\.epochs is 0: there is nothing to plan"),
    ("report", r"no run given: deepcnn report RUN"),
    ("report nowhere", r"nowhere does not exist; expected a run folder made by `deepcnn train`"),
    ("report file", r"file holds no run; expected a folder made by `deepcnn train --out file`"),
    ("report empty", r"empty holds no run; expected a folder"),
    ("report damaged-run", r"damaged-run/model is damaged: weights\.safetensors is not what was"),
    ("report run unfinished", r"unfinished holds no finished model"),
    ("report run --out nowhere/page.html", r"cannot write nowhere/page\.html: No such file"),
    ("predict", r"RUN"),
    ("predict run", r"no pictures given: deepcnn predict RUN PICTURE"),
    ("predict run dark.png --top 0", r"--top is 0, expected at least 1"),
    ("predict run dark.png --top -1", r"--top is -1, expected at least 1"),
    ("predict run dark.png --top x", r'--top.*"x".*int'),
    ("predict nowhere dark.png", r"nowhere does not exist; expected a run folder"),
    ("predict damaged-run dark.png", r"damaged-run/model is damaged"),
    ("recipes nope", r"unknown recipe 'nope'"),
    ("data fetch", r"NAME"),
    ("data fetch nope", r"unknown data set 'nope'.* mnist, fashion-mnist"),
    ("data fetch ./toy", r"unknown data set './toy'"),
    ("data show", r"NAME"),
    ("data show nope", r"unknown data set 'nope'"),
    ("data show ./empty", r"'empty' holds no pictures in class folders"),
    ("data show ./toy --per-class 0", r"--per-class is 0, expected at least 1"),
    ("data show ./toy --out nowhere/sheet.png", r"cannot write nowhere/sheet\.png: No such file"),
    ("data show ./toy --split half", r"half.*--split.*train.*test"),
]
BAD_FOLDERS = [
    ("file", r"file is a file, expected a folder: give another one with --out"),
    ("file/run", r"cannot write in file/run: .*; give another folder with --out"),
    ("run", r"run holds a finished run, so nothing was done\. .* or give another --out"),
]


def refused(capsys: pytest.CaptureFixture[str], world: Path, *arguments: object) -> str:
    """The message of a bad request, after all that is true of every bad request."""
    capsys.readouterr()
    before = tree(world)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    message = unique(err)
    assert message.startswith("deepcnn: ")
    assert tree(world) == before
    return message


@pytest.mark.parametrize(("setting", "value", "message"), BAD_SETTINGS)
def test_bad_settings(
    setting: str,
    value: str,
    message: str,
    inside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", *SMALL, "--out", f"{setting}/run", f"--{setting}", value]
    assert re.search(message, refused(capsys, inside, *arguments))


@pytest.mark.parametrize(("line", "message"), BAD_REQUESTS)
def test_bad_requests(
    line: str, message: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, refused(capsys, inside, *line.split()))


@pytest.mark.parametrize(("out", "message"), BAD_FOLDERS)
def test_bad_run_folders(
    out: str, message: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, refused(capsys, inside, "train", *SMALL, "--out", out))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc that nobody may fill")
def test_a_run_folder_where_nobody_may_write(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, inside, "train", *SMALL, "--out", "/proc/run")
    assert message.startswith("deepcnn: cannot write in /proc/run: ")


def test_a_run_of_other_settings(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ("--train.epochs", 2, "--optim.lr", 0.1)
    message = refused(capsys, inside, "train", *SMALL, *other, "--out", "unfinished")
    assert "unfinished holds a run of other settings" in message
    assert "optim.lr: 0.05 then, 0.1 now; train.epochs: 1 then, 2 now" in message
    assert message.endswith("Give another --out, or --accept-change to go on with these")
    message = refused(capsys, inside, "train", *SMALL, *other, "--out", "run", "--accept-change")
    assert message.endswith("Give another --out")


def test_a_run_in_use(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(inside / "unfinished" / "lock"):
        message = refused(capsys, inside, "train", *SMALL, "--out", "unfinished")
    assert message.startswith("deepcnn: unfinished is in use by another training process: wait")


def test_names_are_looked_up_before_data_is_fetched(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("model.name", "model.init", "hardware.device"):
        nowhere = ("--data.name", "./nowhere", "--out", "empty")
        message = refused(capsys, inside, "train", *SMALL, *nowhere, f"--{setting}", "tpu")
        assert message.startswith("deepcnn: unknown ")


def test_the_size_that_is_advised_allows_for_padding(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("lenet-mnist", *SMALL, "--data.size", 20, "--out", "new")
    message = refused(capsys, inside, "train", *arguments)
    assert message.endswith("Resize them with --data.size 28, to which data.pad adds 4.")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_data_folder_whose_name_is_no_text(world: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / os.fsdecode(b"\xff"), tmp_path / "run"
    shutil.copytree(world / "toy", folder)
    assert call("train", *SMALL, "--data.name", folder, "--out", run) == 0
    assert call("evaluate", run) == 0


def test_unknown_variables(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPCNN_TRAIN_EPOCH", "3")
    message = refused(capsys, inside, "train", *SMALL, "--out", "new")
    assert message.endswith("DEEPCNN_TRAIN_EPOCH; did you mean DEEPCNN_TRAIN_EPOCHS?")


def test_a_message_is_one_line_whatever_is_in_it(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, inside, "evaluate", "two\nlines\r\x85.")
    assert message.startswith("deepcnn: two lines")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("train", "nope"), ConfigError),
        (("train", *SMALL, "--data.name", "./empty", "--out", "new"), DataError),
        (("evaluate", "nowhere"), RunError),
        (("train", "--nope"), CycloptsError),
    ],
)
@pytest.mark.usefixtures("inside")
def test_the_traceback_comes_with_debug(arguments: tuple[str, ...], kind: type[Exception]) -> None:
    for place in (0, len(arguments)):
        with signals_restored(), pytest.raises(kind):
            main([*arguments[:place], "--debug", *arguments[place:]])


def test_a_loss_that_is_no_number_is_a_failure(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exploding = ("--optim.lr", "1e6", "--optim.weight_decay", "1")
    arguments = ("train", *SMALL, *exploding, "--out", tmp_path / "run", "--train.epochs", "9")
    assert call(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"\ndeepcnn: .* in step \d+, .*Try a lower --optim\.lr[^\n]*\n$", err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_pictures(
    number: signal.Signals,
    inside: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode = predict.decode

    def kill_then_decode(path: Path, channels: int, least: int) -> object:
        os.kill(os.getpid(), number)
        return decode(path, channels, least)

    monkeypatch.setattr(predict, "decode", kill_then_decode)
    assert call("predict", "run", "dark.png", "dark.png") == 128 + number
    out, err = capsys.readouterr()
    assert unique(out).startswith("dark.png: ")
    assert unique(err) == f"deepcnn: stopped by {number.name}"


@pytest.mark.usefixtures("inside")
def test_a_stopped_training_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, steps = train.train_step, []

    def kill_in_third(*arguments: Any) -> object:
        steps.append(arguments)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(*arguments)

    monkeypatch.setattr(train, "train_step", kill_in_third)
    arguments = ["train", *SMALL, "--out", str(tmp_path / "a run")]
    monkeypatch.setattr(sys, "argv", ["bin/deepcnn", *arguments])
    monkeypatch.setenv("PATH", "")  # so the command has to be called by its path
    assert call(*arguments) == 130
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("deepcnn: stopped by SIGINT at step 3 of 6; continue with: bin/deep")
    assert message.endswith(f"--out '{tmp_path}/a run'")
    assert call(*arguments) == 0
    assert "continuing at step 3" in capsys.readouterr().err


def test_exit_codes_are_documented() -> None:
    for code in ("0 done", "1 failed", "2 bad request", "130 Ctrl-C", "143 SIGTERM"):
        assert code in (main.__doc__ or "")


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(*command.split(), "--help") == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def rows(text: str, first_word: str) -> list[str]:
    """The first words of the rows in the frames of a help text, where they look like that."""
    return re.findall(rf"^│ (?:\*  |   )?({first_word})(?= |\n)", text, re.MULTILINE)


def test_commands_and_options_are_these(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in rows(help_of("", capsys), r"[a-z]\w*"):
        has_parts = name in ("data", "inspect")
        parts = rows(help_of(name, capsys), r"[a-z]\w*") if has_parts else [""]
        found |= {f"{name} {part}".strip(): "" for part in parts}
    for name in found:
        text = help_of(name, capsys)
        found[name] = " ".join(rows(text, r"[A-Z]+") + rows(text, r"--[a-z][a-z-]*"))
    assert found == COMMANDS


@pytest.mark.parametrize("command", ["", "data", "inspect"])
def test_help_is_the_answer_to_half_a_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = help_of(command, capsys)
    assert call(*command.split()) == 0
    assert capsys.readouterr() == (expected, "")


@pytest.mark.parametrize(("arguments", "code"), [(["settings"], 0), (["nope"], 2)])
def test_the_installed_command_says_all_before_it_ends(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == code
    result = start(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (code, *capsys.readouterr())


def test_what_needs_no_torch_does_not_load_it() -> None:
    lines = ["--help", "train --help", "predict --help", "data --help", "--version", "recipes",
             "settings", "data list", "train --print-config", "nope"]  # fmt: skip
    program = f"""
import contextlib, io, sys
from deepcnn.cli import main
for line in {lines}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(line.split())
    print(line, [name for name in ("torch", "matplotlib", "PIL") if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [f"{line} []" for line in lines]


@pytest.mark.usefixtures("inside")
def test_results_go_to_stdout_and_all_else_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert call("train", *SMALL, "--out", run) == 0
    out, err = capsys.readouterr()
    first_words = [line.split("  ")[0] for line in out.splitlines()]
    assert first_words == [
        "test accuracy",
        "training time",
        "most memory",
        "run folder",
        "picture",
        "report",
        "next",
    ]
    first_words = [line.split()[0] for line in err.splitlines()]
    assert first_words == ["./toy:", "compact:", "memory:", "epoch"]
    assert call("evaluate", run) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) > 5
    assert not err
    assert call("predict", run, "dark.png", "file") == 1
    out, err = capsys.readouterr()
    assert unique(out).startswith("dark.png: ")
    assert unique(err).startswith("deepcnn: file is not a picture; expected PNG, ")


@pytest.mark.usefixtures("inside")
def test_results_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert call("train", *SMALL, "--data.validation", 9, "--out", run, "--json") == 0
    result = json.loads(unique(capsys.readouterr().out))
    assert list(result) == [
        "run", "test", "validation", "temperature", "num_train_images", "num_parameters",
        "seconds", "config", "policy", "data_fingerprint", "phases", "peak_memory", "forecast",
    ]  # fmt: skip
    measured = [
        "accuracy", "interval", "num_images", "balanced_accuracy", "loss", "calibration_error",
        "calibrated", "per_class",
    ]  # fmt: skip
    assert list(result["test"]) == list(result["validation"]) == measured
    assert result["run"] == str(run)

    assert call("evaluate", run, "--json") == 0
    result = json.loads(unique(capsys.readouterr().out))
    further = ["confusion", "reliability", "coverage", "mistakes"]
    assert list(result) == ["run", "data", "views", *measured, *further]
    assert list(result["per_class"][0]) == [
        "name", "num_images", "correct", "predicted", "precision", "recall", "f1",
    ]  # fmt: skip

    assert call("predict", run, "dark.png", "file", "dark.png", "--json", "--top", 2) == 1
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(result) for result in results] == [["image", "classes", "sure", "error"]] * 3
    assert [result["image"] for result in results] == ["dark.png", "file", "dark.png"]
    assert [len(result["classes"]) for result in results] == [2, 0, 2]
    assert [result["error"] is None for result in results] == [True, False, True]
    assert list(results[0]["classes"][0]) == ["class", "probability"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_name_that_is_no_text(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / os.fsdecode(b"\xff \xe4.png")
    shutil.copy(inside / "dark.png", picture)
    assert call("predict", "run", picture) == 0
    assert unique(capsys.readouterr().out).startswith(f"{tmp_path}/\\udcff \\udce4.png: ")
    assert call("predict", "run", picture, "--json") == 0
    assert json.loads(unique(capsys.readouterr().out))["image"] == str(picture)


def test_a_name_that_looks_like_an_option(
    inside: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(inside / "dark.png", tmp_path / "--data.png")
    monkeypatch.chdir(tmp_path)
    assert call("predict", inside / "run", "--top", 1, "--", "--data.png") == 0
    assert capsys.readouterr().out.startswith("--data.png: ")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_printed_configuration_is_read_back(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("--optim.lr", "0.3", "--data.root", "", "--train.seed=7")
    assert call("train", recipe, "--print-config", *changes) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    file = tmp_path / "run.toml"
    file.write_text(printed)
    assert call("train", "--config", file, "--print-config") == 0
    again = capsys.readouterr().out

    def without_origins(text: str) -> list[str]:
        return [line.partition("#")[0].rstrip() for line in text.splitlines()]

    assert without_origins(again) == without_origins(printed)
    assert {"lr = 0.3", 'root = ""', "seed = 7"} <= set(without_origins(printed))


def test_nothing_is_written_to_print_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("train", "--print-config") == 0
    assert tree(tmp_path) == {}


def test_lists_name_everything(capsys: pytest.CaptureFixture[str]) -> None:
    from deepcnn.config import Config
    from deepcnn.models import MODELS
    from deepcnn.settings import flat

    lists = {"recipes": RECIPES, "data list": catalog.CATALOG, "models": MODELS,
             "settings": flat(Config())}  # fmt: skip
    for command, names in lists.items():
        assert call(*command.split()) == 0
        out, err = capsys.readouterr()
        heading = command == "models"
        assert [line.split()[0] for line in out.splitlines()[heading:]] == list(names)
        assert err == ""
    assert call("recipes", "lenet-mnist") == 0
    assert "LeCun 1998" in capsys.readouterr().out


def test_data_sets_are_found_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "datasets" / "tiny", num_train=30)
    paths = sorted((tmp_path / "datasets" / "tiny").iterdir())
    files = tuple(
        RemoteFile(path.name, path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        for path in paths
    )
    tiny = catalog.Entry(files, (), "none", "", ("top", "mid", "low"), (0.5,), (0.5,), "idx")
    monkeypatch.setitem(catalog.CATALOG, "tiny", tiny)
    monkeypatch.chdir(tmp_path)

    assert call("data", "fetch", "tiny") == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"datasets/tiny/{f.name}" for f in files
    ]

    assert call("data", "show", "tiny", "--per-class", 4) == 0
    assert capsys.readouterr().out.splitlines() == [
        "      10  top", "      10  mid", "      10  low", "tiny-train.png",
    ]  # fmt: skip
    assert call("data", "show", "./datasets/tiny", "--split", "test", "--out", "sheet.xyz") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "sheet.xyz"
    for name in ("tiny-train.png", "sheet.xyz"):
        with Image.open(name, formats=["PNG"]) as sheet:
            sheet.load()
            assert len(sheet.getcolors(maxcolors=100_000)) > 50  # not blank


@pytest.mark.parametrize("given", ["pipe", "NO_COLOR"])
@pytest.mark.usefixtures("inside")
def test_no_escape_codes_off_a_terminal(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if given == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    assert call("train", *SMALL, "--out", tmp_path / "run") == 0
    for line in ("--help", "train --help", "nope", "settings"):
        call(*line.split())
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\r" not in out + err


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[Callable[[], str]]:
    """Make stderr a terminal; what was written to it can be had after the block."""
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", kind)
    outer, inner = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(outer, 65_536):
                seen.extend(part)
        except OSError:  # how Linux says that the other side has been closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(inner, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            yield lambda: seen.decode()
    finally:
        reader.join()
        os.close(outer)


@pytest.mark.parametrize("no_colour", [False, True])
@pytest.mark.usefixtures("inside")
def test_a_terminal_has_a_progress_bar(
    no_colour: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with terminal(monkeypatch, "xterm-256color") as seen:
        assert call("train", *SMALL, "--out", tmp_path / "run", "--json") == 0
    assert "━━━" in seen()
    assert "6/6" in seen()
    assert "epoch 1/1  loss " in seen()
    assert bool(COLOUR.search(seen())) != no_colour
    assert json.loads(unique(capsys.readouterr().out))


@pytest.mark.usefixtures("inside")
def test_a_dumb_terminal_has_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcnn.progress.LINE_SECONDS", 0.0)
    with terminal(monkeypatch, "dumb") as seen:
        assert call("train", *SMALL, "--out", tmp_path / "run") == 0
    assert "\x1b" not in seen()
    assert "step 6/6" in seen()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = start("settings", stdout=writing, env=environment)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_under_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        result = start("settings", stdout=full)
    assert result.returncode == 1
    assert unique(result.stderr) == "deepcnn: cannot write the output: No space left on device"
