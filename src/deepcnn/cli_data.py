"""The part of the command line that is about data: `deepcnn data ...`."""

import io
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from deepcnn.config import Config
from deepcnn.errors import ConfigError, RunError
from deepcnn.settings import resolve

Settings = Annotated[dict[str, str], Parameter(parse=False)]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]

data = App(
    name="data", help="List, fetch, look at, check and pack data sets.", help_format="plaintext"
)


@data.command(name="list")
def list_data() -> None:
    """List the data sets that are known by name."""
    from deepcnn.data import catalog

    for name in catalog.names():
        entry = catalog.entry(name)
        megabytes = sum(file.size for file in entry.files) / 1e6
        print(f"{name:<16}{len(entry.classes):>4} classes{megabytes:>8.1f} MB  "
              f"{entry.licence}  {entry.home}")  # fmt: skip


@data.command
def fetch(name: str, /, *, root: str = "") -> None:
    """Download a data set, verify it, and print where its files are.

    Parameters
    ----------
    name
        Data set; `deepcnn data list` lists them.
    root
        Folder to look in first and to download into; else $DEEPCNN_DATA, else the user's cache.
    """
    from deepcnn.data import catalog

    for path in catalog.fetch(name, root).values():
        print(path)


@data.command
def show(
    name: str,
    /,
    *,
    out: Path | None = None,
    split: Literal["train", "test"] = "train",
    per_class: int = 10,
    geometry: Flag = False,
    augment: Flag = False,
    settings: Settings,
) -> None:
    """Draw a sheet with the first pictures of each class, as a PNG, and print the counts.

    With --geometry, what each geometry keeps of pictures; with --augment, how random changes look,
    which are set as for training. Examples:

    deepcnn data show fashion-mnist
    deepcnn data show photos --geometry --data.size 224
    deepcnn data show photos --augment --augment.crop_area 0.2 --augment.flip random

    Parameters
    ----------
    name
        Data set by name, or folder.
    out
        PNG file to write; default NAME-SPLIT.png, NAME-geometry.png or NAME-augment.png.
    split
        train or test.
    per_class
        Pictures of each class.
    geometry
        Show what crop, squash and letterbox make of some pictures.
    augment
        Show some pictures as seven epochs of training would see them.
    """  # fmt: skip
    from deepcnn.data.sheets import draw_sheet

    if per_class < 1:
        raise ConfigError(f"--per-class is {per_class}, expected at least 1")
    what = "geometry" if geometry else "augment" if augment else split
    config, _ = resolve(("defaults", Config()), None, {}, {"data.name": name, **settings})
    path = out or Path(f"{Path(name).name}-{what}.png")
    sheet, counts = draw_sheet(config, split, what, per_class)
    picture = io.BytesIO()
    sheet.save(picture, format="PNG")
    write(path, picture.getvalue())
    for label, count in counts.items():
        print(f"{count:>8,}  {label}")
    print(path)


@data.command
def check(
    name: str,
    /,
    *,
    html: Path | None = None,
    labels: Path | None = None,
    group: str = "",
    root: str = "",
    json: Flag = False,
) -> int:
    """Look for what is wrong with a data set: pictures that cannot be read, look odd or are there
    twice, also across train and test; labels that contradict each other; classes out of balance.
    With --labels, also for labels that a trained model doubts.

    The exit code is 1 where something is wrong that spoils what is learnt or measured. Examples:

    deepcnn data check photos --html report.html
    deepcnn data check fashion-mnist --json
    deepcnn data check photos --labels runs/photos

    Parameters
    ----------
    name
        Data set by name, folder, or CSV file.
    html
        Write a page with the pictures that were found into this file.
    labels
        Run folder of a model, of these or other classes: find doubtful labels by what it sees.
    group
        What belongs together: expression found in the path, or CSV column.
    root
        Folder to look for data sets in first.
    json
        Print the findings as JSON.
    """
    from deepcnn.data.doctor_report import as_html, in_words
    from deepcnn.data.findings import as_dict
    from deepcnn.data.splits import check_data

    if labels:
        from deepcnn.labels import check_labels

        report, sets = check_labels(name, root, group, labels)
    else:
        report, sets = check_data(name, root, group)
    if html:
        write(html, as_html(report, sets, name).encode(errors="backslashreplace"))
    print(to_json(as_dict(report), ensure_ascii=False) if json else in_words(report))
    return 1 if any(finding.severity == "error" for finding in report.findings) else 0


@data.command
def pack(source: str, out: Path, /, *, shards: int) -> None:
    """Pack a folder or CSV file of pictures into tar shards (WebDataset layout), for large sets.

    Shards are read where they are, in large pieces: `deepcnn train --data OUT`. Example:
    deepcnn data pack photos packed --shards 16

    Parameters
    ----------
    source
        Folder or CSV file of pictures.
    out
        New folder for the shards.
    shards
        How many to make of each of train, val and test.
    """
    from deepcnn.data.pictures import pack as pack_pictures

    for path in pack_pictures(source, out, shards):
        print(path)


def write(path: Path, content: bytes) -> None:
    """Write what the user asked for where the user said."""
    try:
        path.write_bytes(content)  # as it is: PATH may be a device such as /dev/stdout
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; give another file") from error
