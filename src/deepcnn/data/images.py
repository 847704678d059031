"""`ImageSet`: the pictures of one split, in memory, with their labels."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepcnn.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: `images` is uint8 N C H W, `labels` is int64 N, indexing `classes`."""

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 N C H W, not {self.images.dtype} with "
                f"shape {self.images.shape}"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise ValueError(
                f"labels must be int64 with shape ({len(self.images)},), not "
                f"{self.labels.dtype} with shape {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_channels(self) -> int:
        """Colour channels: 1 for grey, 3 for RGB."""
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        """Side of the (square) images in pixels."""
        return int(self.images.shape[2])

    def fingerprint(self) -> str:
        """SHA-256 over classes, labels and pixels: equal when the data is the same data."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()

    def class_counts(self) -> NDArray[np.int64]:
        """Images per class, int64 K."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(self, indices: NDArray[np.int64], name: str) -> "ImageSet":
        """The images at `indices`, in that order."""
        return replace(self, name=name, images=self.images[indices], labels=self.labels[indices])


def split_off(images: ImageSet, num_held_out: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split into (kept, held out), each class in proportion; the same split for the same seed.

    Shares are rounded by largest remainder, so that exactly `num_held_out` images are held out.
    """
    if not 0 < num_held_out < len(images):
        raise DataError(
            f"cannot hold out {num_held_out} of the {len(images)} images of "
            f"{images.name}: choose data.validation between 1 and {len(images) - 1}, "
            "or 0 for none"
        )
    exact = images.class_counts() * num_held_out / len(images)
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: num_held_out - shares.sum()]] += 1
    generator = np.random.Generator(np.random.Philox(seed))
    shuffled = generator.permutation(len(images))
    held_out = np.concatenate(
        [shuffled[images.labels[shuffled] == label][:share] for label, share in enumerate(shares)]
    )
    held_out.sort()
    kept = np.setdiff1d(np.arange(len(images)), held_out)
    return images.subset(kept, f"{images.name}, kept"), images.subset(
        held_out, f"{images.name}, held out"
    )
