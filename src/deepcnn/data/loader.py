"""Batches of a whole set: gathered by index, augmented on the device, turned into numbers.

Nothing here has a state: what an image becomes is a function of its index, seed and epoch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import tee
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcnn.config import Augment
from deepcnn.data.augment import Parameters, augment, mirrors, pick, windows
from deepcnn.data.images import ImageSet
from deepcnn.data.mix import mixed, partner_positions
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.threads import in_threads
from deepcnn.device import available_threads
from deepcnn.phases import Stopwatch

PORTION = 8  # pictures of one task: with fewer, handing over would cost more than decoding
MOST_IMAGES, MOST_PIXELS = 256, 2**21  # at once in evaluation: 41 at 224x224
TOGETHER = 2**19  # pixels of small images that are changed at once, 512 of 32x32: a call costs as
# much as some dozens of them
AHEAD = 2  # batches read in advance for a device that computes meanwhile; the CPU has no time to

# Images uint8 at indices, changed or as numbers, with the stopwatch of who calls.
Change = Callable[[Tensor, Tensor, Stopwatch], Tensor]


class Batch(NamedTuple):
    """What a model and a loop see: `images` float32 N C H W, `labels` N, `indices` N in the set.

    Where each image is mixed with another one: `share` N of its own, and the other's label.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    share: Tensor | None = None
    partner_labels: Tensor | None = None


class Reading(NamedTuple):
    """A batch on its way: at `positions`, each with a window (N 4) or None, and `mirrored` (N 2:
    upside down, left to right), into `images` N C S S, in memory N S S C.
    """

    positions: NDArray[np.int64]
    windows: NDArray[np.int64] | None
    mirrored: NDArray[np.bool_]
    images: Tensor


@dataclass(frozen=True)
class Source:
    """An image set with the way to turn it into numbers: uint8 N C H W on the device, or pictures
    in files; `labels` int64 N on the device. `watch` tells what batches take.
    """

    images: Tensor | Photos
    labels: Tensor
    preprocess: Preprocess
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __len__(self) -> int:
        return len(self.labels)

    def at_once(self) -> int:
        """How many images to compute at once where nothing is learnt; no effect on the result."""
        return max(1, min(MOST_IMAGES, MOST_PIXELS // self.preprocess.input_size**2))

    def batch(
        self, indices: Tensor, settings: Augment | None = None, parameters: Parameters | None = None
    ) -> Batch:
        """The images at `indices`, augmented if asked to."""
        return next(self.batches([indices], settings, parameters))

    def batches(
        self,
        groups: Iterable[Tensor],
        settings: Augment | None = None,
        parameters: Parameters | None = None,
    ) -> Iterator[Batch]:
        """The images at each group of indices in turn. Pictures in files are read in threads."""
        device, in_files = self.labels.device, isinstance(self.images, Photos)

        def change(images: Tensor, indices: Tensor, watch: Stopwatch) -> Tensor:
            if not settings or not parameters:
                return images
            with watch.during("augmenting"):
                rows = pick(parameters, indices.cpu())
                return augment(images, settings, rows, is_placed=in_files)

        found = self._read(groups, parameters, change) if in_files else self._held(groups, change)
        for indices, images in found:
            with self.watch.during("copying"):
                indices = indices.to(device)
                labels = self.labels[indices]
            yield Batch(images, labels, indices)

    def _held(self, groups: Iterable[Tensor], change: Change) -> Iterator[tuple[Tensor, Tensor]]:
        """Each group of indices with its finished images, of those in memory."""
        assert isinstance(self.images, Tensor)
        device, watch = self.labels.device, self.watch
        for some in _together(groups, TOGETHER // self.images.shape[-2:].numel()):
            indices = torch.cat(some)
            with watch.during("copying"):
                # Whole images are copied, which indexing does number by number.
                images = self.images.index_select(0, indices.to(device))
            images = change(images, indices, watch)
            for group, part in zip(some, images.split([*map(len, some)]), strict=True):
                # Not all together: a resize is a product, whose last bits may change with its size.
                with watch.during("preprocessing"):
                    numbers = self.preprocess(part)
                yield group, numbers

    def _read(
        self, groups: Iterable[Tensor], parameters: Parameters | None, change: Change
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each group of indices with its finished images, of those in files."""
        assert isinstance(self.images, Photos)
        device, watch = self.labels.device, self.watch

        def finish(images: Tensor, indices: Tensor, watch: Stopwatch) -> Tensor:
            images = change(images, indices, watch)
            with watch.during("preprocessing"):
                return self.preprocess(images)

        # On the CPU a few at a time, where they are read, while they are near the processor.
        is_cpu = device.type == "cpu"
        readings = read(
            self.images, groups, self.preprocess, parameters, finish if is_cpu else None, watch
        )
        for reading in readings:
            indices, images = torch.from_numpy(reading.positions), reading.images
            if not is_cpu:
                with watch.during("copying"):
                    images = images.to(device, non_blocking=True)
                images = finish(images, indices, watch)
            yield indices, images


def _together(groups: Iterable[Tensor], number: int) -> Iterator[list[Tensor]]:
    """Groups one after the other, as many at once as have so many images together, at least one."""
    some: list[Tensor] = []
    for group in groups:
        if some and sum(map(len, some)) + len(group) > number:
            yield some
            some = []
        some.append(group)
    if some:
        yield some


def read(
    photos: Photos,
    groups: Iterable[Tensor],
    preprocess: Preprocess,
    parameters: Parameters | None,
    finish: Change | None,
    watch: Stopwatch | None = None,
) -> Iterator[Reading]:
    """Decode the pictures of each group and bring them to one size, in threads.

    Each is cut to its own random window where `parameters` have some, else framed as the geometry
    says, and mirrored: uint8, or what `finish` makes of that. Without `finish` batches are read in
    advance. `watch` is told what it takes. Raises ImageError for a picture that cannot be read.
    """
    watch, threads = watch or Stopwatch(), available_threads()

    def fill(task: tuple[Reading, slice]) -> tuple[Reading, dict[str, float]]:
        (reading, part), own = task, Stopwatch("preprocessing")
        places = range(part.start, part.stop)
        # Stacked as they lie in memory, which takes a quarter of the time.
        images = torch.stack([square(reading, place, own).permute(1, 2, 0) for place in places])
        images = images.permute(0, 3, 1, 2)
        if finish:
            images = finish(images, torch.from_numpy(reading.positions[part]), own)
        reading.images[part] = images
        return reading, own.by_phase()

    def square(reading: Reading, place: int, own: Stopwatch) -> Tensor:
        picture = photos.pixels(int(reading.positions[place]), own)
        if reading.windows is None:
            found = preprocess.frame(picture)
        else:
            found = preprocess.cut(picture, tuple(reading.windows[place].tolist()))
        axes = np.flatnonzero(reading.mirrored[place]) + 1
        return found.flip(axes.tolist()) if len(axes) else found

    def tasks() -> Iterator[list[tuple[Reading, slice]]]:
        for indices in groups:
            reading = _begin(photos, indices.numpy(), preprocess, parameters, bool(finish))
            number = len(indices)
            starts = range(0, number, PORTION)
            yield [(reading, slice(start, min(start + PORTION, number))) for start in starts]

    ahead = 0 if finish else AHEAD
    for portions in watch.coming(in_threads(fill, tasks(), threads, ahead), "waiting"):
        for _, seconds in portions:
            watch.add_threads(seconds, threads)
        yield portions[0][0]


def _begin(
    photos: Photos,
    positions: NDArray[np.int64],
    preprocess: Preprocess,
    parameters: Parameters | None,
    is_finished: bool,
) -> Reading:
    side = preprocess.input_size if is_finished else preprocess.size
    images = torch.empty(
        (len(positions), photos.channels, side, side),
        dtype=torch.float32 if is_finished else torch.uint8,
        memory_format=torch.channels_last,
    )
    rows = pick(parameters or {}, torch.from_numpy(positions))
    heights, widths = torch.from_numpy(photos[positions].sizes).long().unbind(dim=1)
    boxes = windows(rows, heights, widths)
    mirrored = mirrors(rows, len(positions)).numpy()
    return Reading(positions, None if boxes is None else boxes.long().numpy(), mirrored, images)


def epoch_batches(
    images: Source,
    permutation: Tensor,
    groups: Iterable[Tensor],
    settings: Augment,
    parameters: Parameters,
) -> Iterator[Batch]:
    """The augmented images at each group of positions in an epoch's order, in turn.

    Where images are mixed, a group is read together with the partners that are not in it: none in
    groups of even size.
    """
    if "share" not in parameters:
        yield from images.batches((permutation[group] for group in groups), settings, parameters)
        return
    groups, again = tee(groups)
    whole = (permutation[_with_partners(group, len(permutation))] for group in again)
    for positions, batch in zip(groups, images.batches(whole, settings, parameters), strict=True):
        number = len(positions)
        partners = partner_positions(positions, len(permutation))
        read = _with_partners(positions, len(permutation)).tolist()
        places = torch.tensor([read.index(k) for k in partners.tolist()])
        rows = pick(parameters, permutation[positions])
        with images.watch.during("augmenting"):
            pixels, share = mixed(batch.images[:number], batch.images[places], rows)
        others = batch.labels[places.to(batch.labels.device)]
        yield Batch(pixels, batch.labels[:number], batch.indices[:number], share, others)


def _with_partners(positions: Tensor, num_images: int) -> Tensor:
    """Positions, followed by those partners of theirs that are not among them."""
    partners = partner_positions(positions, num_images)
    return torch.cat([positions, partners[~torch.isin(partners, positions)]])


def source(
    images: ImageSet, preprocess: Preprocess, device: torch.device, watch: Stopwatch | None = None
) -> Source:
    """An image set for `device`: an array goes there whole, as bytes. `watch` is told what its
    batches take.

    Pictures in files are squashed for a model that has learnt from an array of squares.
    """
    labels = torch.from_numpy(images.labels).to(device)
    if isinstance(images.images, Photos):
        if preprocess.geometry == "none":
            preprocess = replace(preprocess, geometry="squash")
        return Source(images.images, labels, preprocess, watch or Stopwatch())
    pixels = torch.from_numpy(images.images).to(device)
    return Source(pixels, labels, preprocess, watch or Stopwatch())


def in_order(images: Source, batch_size: int) -> Iterator[Batch]:
    """Every image once, as stored: for evaluation."""
    starts = range(0, len(images), batch_size)
    return images.batches(torch.arange(k, min(k + batch_size, len(images))) for k in starts)
