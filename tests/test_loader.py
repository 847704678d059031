import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcnn.config import Augment
from deepcnn.data.augment import augment, draw
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, batch_slices, in_order, order, source
from deepcnn.data.preprocess import Preprocess

NUM_IMAGES = 23
# Pixels stay what they are, so that a batch can be compared with the stored images bit by bit.
RAW = Preprocess(channels=2, size=4, pad=0, mean=(0.0, 0.0), std=(1 / 255, 1 / 255))
SCALED = Preprocess(channels=2, size=7, pad=1, mean=(0.3, 0.4), std=(0.2, 0.5))
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10_000)


def stored() -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_IMAGES, 2, 4, 4), dtype=np.uint8)
    return ImageSet("toy", pixels, rng.integers(0, 3, NUM_IMAGES), ("a", "b", "c"))


def toy(preprocess: Preprocess) -> Source:
    return source(stored(), preprocess, torch.device("cpu"))


@settings(deadline=None)
@given(seeds, epochs, st.integers(1, 300))
def test_order_is_a_permutation_that_depends_on_its_arguments_only(
    seed: int, epoch: int, num_images: int
) -> None:
    visited = order(seed, epoch, num_images)
    assert sorted(visited.tolist()) == list(range(num_images))
    torch.manual_seed(seed % 1000)
    assert torch.equal(order(seed, epoch, num_images), visited)


@settings(deadline=None, max_examples=30)
@given(seeds, epochs)
def test_each_epoch_and_seed_has_its_own_order(seed: int, epoch: int) -> None:
    visited = order(seed, epoch, 100)
    assert not torch.equal(visited, order(seed, epoch + 1, 100))
    assert not torch.equal(visited, order(seed ^ 1, epoch, 100))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_cover_every_image_once(num_images: int, batch_size: int) -> None:
    batches = [
        list(range(num_images))[part] for part in batch_slices(num_images, batch_size, False)
    ]
    assert [i for batch in batches for i in batch] == list(range(num_images))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    # A single image at the end is joined to the batch before it, if there is one.
    alone = num_images == 1 or batch_size == 1
    assert len(batches[-1]) in ([1] if alone else range(2, batch_size + 2))
    assert len(batches) == max(1, -(-num_images // batch_size) - (num_images % batch_size == 1))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_drop_last_leaves_out_the_rest_and_nothing_else(num_images: int, batch_size: int) -> None:
    batches = [list(range(num_images))[part] for part in batch_slices(num_images, batch_size, True)]
    whole = num_images // batch_size
    assert [len(batch) for batch in batches] == [batch_size] * whole
    assert [i for batch in batches for i in batch] == list(range(whole * batch_size))


def test_batches_of_a_few_sizes() -> None:
    def sizes(num_images: int, batch_size: int, drop_last: bool) -> list[int]:
        return [p.stop - p.start for p in batch_slices(num_images, batch_size, drop_last)]

    assert sizes(10, 4, False) == [4, 4, 2]
    assert sizes(9, 4, False) == [4, 5]
    assert sizes(8, 4, False) == [4, 4]
    assert sizes(9, 4, True) == [4, 4]
    assert sizes(1, 4, False) == [1]
    assert sizes(60_000, 128, False) == [128] * 468 + [96]
    assert sizes(50_000, 64, True) == [64] * 781  # text 000: the last 16 are discarded


def test_in_order_yields_every_image_once_whatever_the_batch_size() -> None:
    images = stored()
    for batch_size in range(1, NUM_IMAGES + 2):
        batches = list(in_order(toy(RAW), batch_size))
        assert max(len(batch.labels) for batch in batches) <= batch_size
        pixels = torch.cat([batch.images for batch in batches]).numpy()
        np.testing.assert_allclose(pixels, images.images, rtol=1e-6)
        assert torch.cat([batch.labels for batch in batches]).tolist() == images.labels.tolist()
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(NUM_IMAGES))


chosen = st.lists(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=40)


@settings(deadline=None)
@given(chosen)
def test_a_batch_is_the_gathered_images_preprocessed(indices: list[int]) -> None:
    images = stored()
    batch = toy(SCALED).batch(torch.tensor(indices))
    assert torch.equal(batch.images, SCALED(gathered(images.images, indices)))
    assert batch.images.dtype == torch.float32
    assert batch.labels.tolist() == images.labels[indices].tolist()
    assert batch.indices.tolist() == indices


@settings(deadline=None, max_examples=50)
@given(chosen, seeds, epochs)
def test_an_augmented_batch_is_the_gathered_augmented_images_preprocessed(
    indices: list[int], seed: int, epoch: int
) -> None:
    options = Augment(flip="random", crop=2)
    parameters = draw(options, seed, epoch, NUM_IMAGES)
    whole = augment(torch.from_numpy(stored().images), options, parameters).numpy()
    batch = toy(SCALED).batch(torch.tensor(indices), options, parameters)
    assert torch.equal(batch.images, SCALED(gathered(whole, indices)))


def gathered(images: NDArray[np.uint8], indices: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(images[index].copy()) for index in indices])


def test_without_augmentation_settings_a_batch_is_not_augmented() -> None:
    indices = torch.arange(NUM_IMAGES)
    plain = toy(RAW).batch(indices).images
    assert torch.equal(toy(RAW).batch(indices, Augment(), draw(Augment(), 0, 0, 23)).images, plain)


def test_a_source_holds_bytes() -> None:
    images = toy(RAW)
    assert (images.images.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
