"""`ImageSet`: the pictures of one split with their labels."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.holdout import held_out
from deepcnn.data.photos import Photos


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: `images` is uint8 N C H W, or `Photos` where sizes differ or files are
    not read yet; `labels` is int64 N, indexing `classes`.
    """

    name: str
    images: NDArray[np.uint8] | Photos
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Photos) and (images.ndim != 4 or images.dtype != np.uint8):
            raise ValueError(
                f"images must be uint8 N C H W, not {images.dtype} with shape {images.shape}"
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
        if isinstance(self.images, Photos):
            return self.images.channels
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        """Side in pixels of images that are equal squares; 0 where they are not."""
        if not isinstance(self.images, Photos):
            return int(self.images.shape[2])
        sides = np.unique(self.images.sizes)
        return int(sides[0]) if len(sides) == 1 else 0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, labels and pixels, or the bytes of the files they come from: equal
        when the data is the same data.
        """
        images = self.images
        pixels = images.digests if isinstance(images, Photos) else images
        identity = repr((pixels.shape, self.classes))
        digest = hashlib.sha256(identity.encode(errors="surrogateescape"))
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()

    def class_counts(self) -> NDArray[np.int64]:
        """Images per class, int64 K."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(self, indices: NDArray[np.int64], name: str) -> "ImageSet":
        """The images at `indices`, in that order."""
        return replace(self, name=name, images=self.images[indices], labels=self.labels[indices])


def split_off(images: ImageSet, number: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split into (kept, held out), each class in proportion; the same split for the same seed."""
    chosen = held_out(images.labels, [""] * len(images), number, seed)
    kept = np.setdiff1d(np.arange(len(images)), chosen)
    return images.subset(kept, f"{images.name}, kept"), images.subset(
        chosen, f"{images.name}, held out"
    )
