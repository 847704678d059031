"""The data sets known by name: where they come from, how they are checked, found and read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from deepcnn.data.arrays import (
    CIFAR_LAYOUTS,
    IDX_SPLITS,
    Split,
    holds_arrays,
    read_cifar,
    read_cifar_archive,
    read_folder,
    read_idx_pair,
)
from deepcnn.data.download import RemoteFile, download_files, verify
from deepcnn.data.images import ImageSet
from deepcnn.errors import DataError, did_you_mean
from deepcnn.files import cache_folder


@dataclass(frozen=True)
class Entry:
    """A published data set; `mean` and `std` are those of the training pixels, as shares of 255."""

    files: tuple[RemoteFile, ...]
    mirrors: tuple[str, ...]  # base addresses, in the order they are tried
    licence: str
    home: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["idx", "cifar10", "cifar100"]
    unpacked: tuple[RemoteFile, ...] = ()  # what an archive holds, accepted in its place


def _files(listing: str, folder: str = "") -> tuple[RemoteFile, ...]:
    """Parse a listing with a line `SHA-256 size name` for each file."""
    rows = (line.split() for line in listing.strip().splitlines())
    return tuple(RemoteFile(f"{folder}{name}", int(size), digest) for digest, size, name in rows)


# SHA-256, bytes, name. MNIST and Fashion-MNIST: computed from the official files. The others: the
# checksum lists of TensorFlow Datasets; the unpacked CIFAR files: those of torchvision for Ruby.
MNIST = """
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 9912422 train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c 28881 train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 1648877 t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 4542 t10k-labels-idx1-ubyte.gz
"""
FASHION_MNIST = """
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 26421880 train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 29515 train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 4422102 t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 5148 t10k-labels-idx1-ubyte.gz
"""
KMNIST = """
51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4 18165135 train-images-idx3-ubyte.gz
e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17 29497 train-labels-idx1-ubyte.gz
edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5 3041136 t10k-images-idx3-ubyte.gz
20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c 5120 t10k-labels-idx1-ubyte.gz
"""
CIFAR10 = """
c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd 170052171 cifar-10-binary.tar.gz
"""
CIFAR10_UNPACKED = """
cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5 30730000 data_batch_1.bin
a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed 30730000 data_batch_2.bin
bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67 30730000 data_batch_3.bin
014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48 30730000 data_batch_4.bin
755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add 30730000 data_batch_5.bin
8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b 30730000 test_batch.bin
"""
CIFAR100 = """
58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec 168513733 cifar-100-binary.tar.gz
"""
CIFAR100_UNPACKED = """
f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29 153700000 train.bin
d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a 30740000 test.bin
"""
FASHION_MNIST_CLASSES = (
    "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
)
CIFAR10_CLASSES = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

CATALOG = {
    "mnist": Entry(
        files=_files(MNIST),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        licence="CC BY-SA 3.0",
        home="https://yann.lecun.com/exdb/mnist/",
        classes=tuple("0123456789"),
        mean=(0.1307,),  # the PyTorch MNIST example; a test measures it
        std=(0.3081,),
        layout="idx",
    ),
    "fashion-mnist": Entry(
        files=_files(FASHION_MNIST),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        ),
        licence="MIT",
        home="https://github.com/zalandoresearch/fashion-mnist",
        classes=tuple(FASHION_MNIST_CLASSES.split(", ")),
        mean=(0.2860,),  # measured by many; a test measures it again
        std=(0.3530,),
        layout="idx",
    ),
    "kmnist": Entry(
        files=_files(KMNIST),
        mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist",),
        licence="CC BY-SA 4.0",
        home="https://codh.rois.ac.jp/kmnist/",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mean=(0.1918,),  # measured by many
        std=(0.3483,),
        layout="idx",
    ),
    "cifar10": Entry(
        files=_files(CIFAR10),
        unpacked=_files(CIFAR10_UNPACKED, "cifar-10-batches-bin/"),
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        licence="none stated; cite Krizhevsky 2009",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=tuple(CIFAR10_CLASSES.split(", ")),
        mean=(0.4914, 0.4822, 0.4465),  # measured by many
        std=(0.2470, 0.2435, 0.2616),
        layout="cifar10",
    ),
    "cifar100": Entry(
        files=_files(CIFAR100),
        unpacked=_files(CIFAR100_UNPACKED, "cifar-100-binary/"),
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        licence="none stated; cite Krizhevsky 2009",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=tuple(CIFAR100_CLASSES.split()),
        mean=(0.5071, 0.4865, 0.4409),  # measured by many
        std=(0.2673, 0.2564, 0.2762),
        layout="cifar100",
    ),
}


def names() -> tuple[str, ...]:
    """List the data sets of the catalogue."""
    return tuple(CATALOG)


def entry(name: str) -> Entry:
    """Look up what the catalogue says of the data set `name`."""
    if name in CATALOG:
        return CATALOG[name]
    hint = did_you_mean(name, CATALOG) or "."
    raise DataError(
        f"unknown data set {name!r}{hint} The catalogue has {', '.join(CATALOG)}; "
        "write a folder of your own with a path separator, as ./NAME"
    )


def statistics(source: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Look up the published (mean, std) by channel, as shares of 255; None for own data."""
    if _is_folder(source) or is_pictures(source):
        return None
    dataset = entry(str(source))
    return dataset.mean, dataset.std


def locate(name: str, root: str | Path = "") -> dict[str, Path] | None:
    """Find the verified files of the data set `name` by file name; None if some are not here.

    Searched are `root`, $DEEPCNN_DATA, ./datasets and the user's cache, in each the folder `name`
    and the folder itself. A file found there that is not the published one is a `DataError`.
    """
    dataset = entry(name)
    for files in (dataset.unpacked, dataset.files):
        found = _found(name, files, root)
        if files and len(found) == len(files):
            return found
    return None


def fetch(name: str, root: str | Path = "", mirrors: Sequence[str] = ()) -> dict[str, Path]:
    """Find the verified files of the data set `name` by file name; download those not here yet.

    They go to the first of `root`, $DEEPCNN_DATA and the user's cache that can be written to.
    `mirrors` are base addresses to use instead of the catalogue's.
    """
    from filelock import FileLock

    if (present := locate(name, root)) is not None:
        return present
    dataset, folder = entry(name), _destination(name, root)
    with FileLock(folder / ".lock"):
        # Looked up again, because another process may have brought them while this one waited.
        present = _found(name, dataset.files, root)
        missing = [file for file in dataset.files if file.name not in present]
        download_files(name, missing, mirrors or dataset.mirrors, folder)
    return _found(name, dataset.files, root)


def is_pictures(source: str | Path) -> bool:
    """Whether this is a CSV file or folder of pictures, not a data set of arrays."""
    path = Path(source).expanduser()
    is_folder = path.is_dir() and _is_folder(source)
    return not holds_arrays(path) if is_folder else path.suffix.lower() == ".csv"


def load(
    source: str | Path, split: Split, root: str | Path = "", download: bool = True
) -> ImageSet:
    """Read one split of a data set of the catalogue, or of a folder in the IDX or CIFAR layout.

    A folder is a path with a separator in it, or one that exists and is no name of the catalogue.
    """
    if _is_folder(source):
        return read_folder(Path(source).expanduser(), split)
    name = str(source)
    if (files := fetch(name, root) if download else locate(name, root)) is None:
        files_needed = ", ".join(file.name for file in entry(name).files)
        places = " or ".join(map(str, _folders(root)))
        fix = f"run `deepcnn data fetch {name}`"
        raise DataError(f"{name} is not here: expected {files_needed} in {places}; {fix}")
    return _read(name, files, split)


def _read(name: str, files: dict[str, Path], split: Split) -> ImageSet:
    dataset, title = entry(name), f"{name}/{split}"
    if dataset.layout == "idx":
        images, labels = (files[f"{stem}.gz"] for stem in IDX_SPLITS[split])
        return read_idx_pair(images, labels, dataset.classes, title)
    layout = CIFAR_LAYOUTS[dataset.layout]
    pattern = layout.patterns[split]
    members = [file.name for file in dataset.unpacked if PurePath(file.name).match(pattern)]
    if members[0] in files:
        return read_cifar([files[m] for m in members], layout.label_bytes, dataset.classes, title)
    (archive,) = files.values()
    return read_cifar_archive(archive, members, layout.label_bytes, dataset.classes, title)


def _is_folder(source: str | Path) -> bool:
    text = os.fspath(source)
    separated = isinstance(source, Path) or os.sep in text or (os.altsep or os.sep) in text
    return separated or (text not in CATALOG and Path(text).is_dir())


def _found(name: str, files: Sequence[RemoteFile], root: str | Path) -> dict[str, Path]:
    """Find those of `files` that are on this machine, all verified."""
    places = [place for folder in _folders(root) for place in (folder / name, folder)]
    found = {}
    for file in files:
        # `access` answers no where `exists` would raise: in a folder closed to this user.
        present = [place / file.name for place in places if os.access(place / file.name, os.F_OK)]
        if present:
            verify(name, file, present[0])
            found[file.name] = present[0]
    return found


def _folders(root: str | Path) -> list[Path]:
    """List where data sets are looked for, in this order."""
    return [*_chosen(root), Path("datasets"), cache_folder() / "datasets"]


def _chosen(root: str | Path) -> list[Path]:
    """List the folders that the user named."""
    given = (os.fspath(root), os.environ.get("DEEPCNN_DATA", ""))
    return [Path(folder).expanduser() for folder in given if folder]


def _destination(name: str, root: str | Path) -> Path:
    """Choose the first folder that the files of `name` can go to, made if need be."""
    refusals = []
    for folder in (place / name for place in (*_chosen(root), cache_folder() / "datasets")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refusals.append(str(error))
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        refusals.append(f"{folder} is not writable")
    reasons = "; ".join(refusals)
    raise DataError(f"no folder to download {name} into ({reasons}); name one with --data.root")
