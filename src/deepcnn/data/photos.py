"""`Photos`: pictures in files, decoded when they are asked for.

The pixels of an `ImageSet` are an array where all have one size and fit in memory, else these.
N pictures of M that were listed together; C channels, H rows, W columns.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcnn.errors import ImageError
from deepcnn.phases import Stopwatch

if TYPE_CHECKING:  # commands that only list data sets do not wait for torch
    from torch import Tensor

WHOLE_FILE = -1  # in place of a size


@dataclass(frozen=True)
class Spots:
    """Where the bytes of M pictures lie: each its index into `files`, offset and size."""

    files: tuple[str, ...]
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)

    @property
    def are_shards(self) -> bool:
        """Whether pictures share files, which are better read from one end to the other."""
        return bool(len(self) and self.size[0] != WHOLE_FILE)

    def name(self, row: int) -> str:
        """The picture as messages call it."""
        path = self.files[self.file[row]]
        whole = self.size[row] == WHOLE_FILE
        return path if whole else f"{path} at byte {self.offset[row]}"

    def read(self, row: int) -> bytes:
        """The bytes of a picture, not yet decoded. Raises ImageError."""
        from deepcnn.data.decode import read_bytes

        path, size = self.files[self.file[row]], self.size[row]
        if size == WHOLE_FILE:
            return read_bytes(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                file.seek(self.offset[row])
                content = file.read(size)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise ImageError(
                f"{Spots.name(self, row)} is cut off: {len(content):,} bytes are there of {size:,}"
            )
        return content


class Where(NamedTuple):
    """A picture by its place, for messages: its name is made when there is one."""

    spots: Spots
    row: int

    def __str__(self) -> str:
        return self.spots.name(self.row)


def whole_files(paths: tuple[str, ...]) -> Spots:
    """The spots of pictures that have a file each."""
    number = len(paths)
    return Spots(
        paths,
        np.arange(number, dtype=np.int32),
        np.zeros(number, np.int64),
        np.full(number, WHOLE_FILE, np.int64),
    )


class Decoding(NamedTuple):
    """How pictures are decoded: to grey or RGB, for a short side of `least` (see `decode_bytes`),
    and whether those that end too early count as far as they go.
    """

    channels: int
    least: int = 0
    takes_cut: bool = False


@dataclass
class Kept:
    """The decoded pixels of all pictures, H W C each, one after another in any order; None where
    there was no room for them, or the disk lost them.
    """

    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Scan:
    """What one look at M pictures found: XXH3 of their bytes (M 16), and their decoded sizes
    (M 2: H W, 0 where a picture is bad), and all their pixels where these are kept.

    `problems` are of pictures that are bad, `cut` of those that end too early but count as far as
    they go: row -> what is wrong.
    """

    spots: Spots
    decoding: Decoding
    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    problems: dict[int, str]
    cut: dict[int, str]
    kept: Kept
    starts: NDArray[np.int64]  # M: where each begins there


@dataclass(frozen=True)
class Photos:
    """N of the pictures of a scan; indexed by an array of positions it gives those."""

    scan: Scan
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: NDArray[np.int64]) -> "Photos":
        return replace(self, rows=self.rows[positions])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB; every picture is decoded to that."""
        return self.scan.decoding.channels

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Heights and widths: N 2."""
        return self.scan.sizes[self.rows]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """XXH3 of the bytes of each: N 16."""
        return self.scan.digests[self.rows]

    def name(self, position: int) -> str:
        """The picture as messages call it."""
        return self.scan.spots.name(int(self.rows[position]))

    def pixels(self, position: int, watch: Stopwatch | None = None) -> "Tensor":
        """One picture, uint8 C H W; from the kept pixels or decoded. `watch` is told what that
        takes. Raises ImageError.
        """
        import torch

        from deepcnn.data.decode import decode_bytes

        scan, row = self.scan, int(self.rows[position])
        channels, least, _ = scan.decoding
        height, width = map(int, scan.sizes[row])
        if (kept := scan.kept.pixels) is None:
            name, watch = Where(scan.spots, row), watch or Stopwatch()
            with watch.during("reading"):
                content = scan.spots.read(row)
            with watch.during("decoding"):
                picture = decode_bytes(content, name, channels, least, row in scan.cut)
            if picture.shape[1:] != (height, width):  # for which windows may have been drawn
                raise ImageError(
                    f"{name} is another picture than when it was looked at first: put it back, or "
                    "begin a run with it as it is now"
                )
            return picture
        start = scan.starts[row]
        flat = kept[start : start + height * width * channels]
        return torch.from_numpy(flat.reshape(height, width, channels)).permute(2, 0, 1)
