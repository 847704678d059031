import math
import resource
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from deepcnn.config import Data
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import LONGEST, Preprocess, resize
from deepcnn.data.splits import channel_statistics, make_preprocess
from photos import first_photos
from picture_files import looked_at, write_pictures

sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
UNIT = Preprocess(channels=1, size=5, pad=0, mean=(0.0,), std=(1.0,))


def random_pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_pillow(
    pixels: NDArray[np.uint8], size: int, mode: str, interpolation: str = "bilinear"
) -> NDArray[np.float64]:
    picture = Image.fromarray(pixels).convert(mode)
    resampling = Image.Resampling[interpolation.upper()]
    return np.asarray(picture.resize((size, size), resampling), dtype=np.float64)


@settings(deadline=None)
@given(sides, sides, sides, seeds, st.sampled_from(["bilinear", "bicubic"]))
def test_resize_equals_pillow(
    height: int, width: int, size: int, seed: int, interpolation: str
) -> None:
    pixels = random_pixels(seed, height, width)
    images = torch.from_numpy(pixels).float()[None, None]
    ours = resize(images, size, interpolation)[0, 0].numpy()
    expected = by_pillow(pixels, size, "F", interpolation)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)
    if interpolation == "bilinear":
        # Half a level is lost where Pillow rounds between its passes, half where it rounds at last.
        assert np.abs(ours - by_pillow(pixels, size, "L")).max() <= 1.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("own", "size", "keep"), [(20, 14, 0.875), (20, 33, 0.8), (9, 9, 0.5)])
def test_equal_squares_are_cut_to_their_centre(
    own: int, size: int, keep: float, interpolation: str
) -> None:
    images = own_images(random_pixels(4, 3, 1, own, own))
    data = Data(size=size, keep=keep, interpolation=interpolation, pixels="raw")
    preprocess = make_preprocess(data, images)
    assert preprocess.input_size == size
    side = int(size / keep)
    for pixels, numbers in zip(
        images.images, preprocess(torch.from_numpy(images.images)), strict=True
    ):
        whole = torch.from_numpy(by_pillow(pixels[0], side, "F", interpolation))
        expected = v2.functional.center_crop(whole[None], [size, size])
        torch.testing.assert_close(numbers, expected.float(), rtol=0, atol=1e-3)
    squashed = make_preprocess(replace(data, geometry="squash"), images)
    assert squashed(torch.from_numpy(images.images)).shape == (3, 1, size, size)
    assert squashed.keep == 1


def test_resize_of_an_enlarged_fashion_image_equals_pillow() -> None:
    pixels = random_pixels(0, 28, 28)
    ours = resize(torch.from_numpy(pixels).float()[None, None], 224)[0, 0].numpy()
    assert np.abs(ours - by_pillow(pixels, 224, "L")).max() <= 1.001


@settings(deadline=None, max_examples=50)
@given(sides, sides, sides, st.integers(0, 255))
def test_a_constant_image_stays_constant(height: int, width: int, size: int, level: int) -> None:
    resized = resize(torch.full((1, 1, height, width), float(level)), size)
    torch.testing.assert_close(resized, torch.full((1, 1, size, size), float(level)))


@settings(deadline=None, max_examples=50)
@given(sides, sides, sides, st.sampled_from([[-1], [-2], [-1, -2]]), seeds)
def test_resizing_commutes_with_mirroring(
    height: int, width: int, size: int, axes: list[int], seed: int
) -> None:
    images = torch.from_numpy(random_pixels(seed, 2, 3, height, width)).float()
    mirrored = resize(images, size).flip(axes)
    torch.testing.assert_close(resize(images.flip(axes), size), mirrored, rtol=0, atol=1e-3)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    images = torch.from_numpy(random_pixels(1, 4, 3, 9, 9)).float()
    assert torch.equal(resize(images, 9), images)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 4), seeds)
def test_padding_and_scale_equal_numpy(channels: int, side: int, pad: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, std = rng.uniform(0, 1, channels), rng.uniform(0.05, 1, channels)
    pixels = random_pixels(seed, 2, channels, side, side)
    preprocess = Preprocess(channels, side, pad, tuple(mean.tolist()), tuple(std.tolist()))

    padded = np.pad(pixels, ((0, 0), (0, 0), (pad, pad), (pad, pad)))  # background: black pixels
    expected = (padded / 255 - mean[:, None, None]) / std[:, None, None]

    numbers = preprocess(torch.from_numpy(pixels))
    assert numbers.dtype == torch.float32
    assert numbers.shape[-1] == preprocess.input_size
    np.testing.assert_allclose(numbers.numpy(), expected, rtol=0, atol=2e-5)


@settings(deadline=None)
@given(st.integers(1, 3), sides, st.integers(0, 4), seeds)
def test_the_order_in_memory_changes_no_bit(channels: int, side: int, pad: int, seed: int) -> None:
    images = torch.from_numpy(random_pixels(seed, 3, channels, side, side))
    preprocess = Preprocess(
        channels, side, pad, (0.1, 0.3, 0.5)[:channels], (0.2, 0.7, 1)[:channels]
    )
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(preprocess(other), preprocess(images))


def test_padding_comes_after_resizing() -> None:
    numbers = replace(UNIT, pad=2)(torch.full((1, 1, 3, 3), 255, dtype=torch.uint8))
    assert numbers.shape == (1, 1, 9, 9)
    assert torch.equal(numbers[0, 0, 2:-2, 2:-2].round(decimals=5), torch.ones(5, 5))
    assert numbers.sum() == pytest.approx(25)


def own_pixels() -> NDArray[np.uint8]:
    pixels = random_pixels(2, 50, 3, 6, 6)
    pixels[:, 1] = pixels[:, 1] // 4 + 9  # a channel of its own mean and deviation
    return pixels


def own_images(images: NDArray[np.uint8] | Photos | None = None) -> ImageSet:
    images = own_pixels() if images is None else images
    return ImageSet("own", images, np.zeros(len(images), dtype=np.int64), ("thing",))


@pytest.mark.parametrize(("mode", "white"), [("raw", 255.0), ("unit", 1.0)])
def test_raw_and_unit_pixels(mode: str, white: float) -> None:
    preprocess = make_preprocess(Data(name="./own", pixels=mode), own_images())
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    numbers = replace(preprocess, size=16)(levels)
    expected = np.broadcast_to(np.linspace(0, white, 256).reshape(16, 16), (1, 3, 16, 16))
    np.testing.assert_allclose(numbers.numpy(), expected, rtol=1e-6, atol=0)


def test_standardized_pixels_have_mean_0_and_deviation_1_in_each_channel() -> None:
    preprocess = make_preprocess(Data(name="./own"), own_images())
    numbers = preprocess(torch.from_numpy(own_pixels())).double()
    np.testing.assert_allclose(numbers.mean((0, 2, 3)), np.zeros(3), rtol=0, atol=1e-5)
    np.testing.assert_allclose(numbers.std((0, 2, 3), correction=0), np.ones(3), atol=1e-5)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    pixels = own_pixels()
    pixels[:, 2] = 51
    numbers = make_preprocess(Data(name="./own"), own_images(pixels))(torch.from_numpy(pixels))
    assert numbers[:, 2].abs().max() < 1e-6


def test_known_sets_are_scaled_by_their_published_numbers() -> None:
    images = ImageSet("f", random_pixels(3, 9, 1, 28, 28), np.zeros(9, dtype=np.int64), ("thing",))
    preprocess = make_preprocess(Data(name="fashion-mnist"), images)
    assert (preprocess.mean, preprocess.std) == ((0.2860,), (0.3530,))


def test_geometry_is_as_set() -> None:
    images = own_images()
    assert make_preprocess(Data(name="./own", pad=2), images).input_size == 6 + 2 * 2
    assert make_preprocess(Data(name="./own", size=32, pad=3), images).input_size == 32 + 2 * 3


PHOTO = Preprocess(3, 32, 0, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
MODES = ("bilinear", "bicubic")
long_sides = st.integers(1, 300)
keeps = st.one_of(st.floats(0.5, 1), st.sampled_from([1, 0.875, 0.95]))
sizes = st.integers(1, 64)
modes = st.sampled_from(MODES)


def photo(height: int, width: int, seed: int) -> torch.Tensor:
    """Pixels C H W, in memory H W C, as pictures are decoded."""
    return torch.from_numpy(random_pixels(seed, height, width, 3)).permute(2, 0, 1)


def by_torchvision(picture: torch.Tensor, mode: str, size: list[int]) -> torch.Tensor:
    """torchvision's Resize: of one number, the short side becomes that."""
    return v2.Resize(size, v2.InterpolationMode(mode), antialias=True)(picture)  # type: ignore[no-any-return]


def cropped_by_torchvision(
    picture: torch.Tensor, size: int, keep: float, mode: str
) -> torch.Tensor:
    resized = by_torchvision(picture, mode, [math.floor(size / keep)])
    return v2.CenterCrop(size)(resized)  # type: ignore[no-any-return]


@settings(max_examples=200)
@given(long_sides, long_sides, sizes, keeps, modes, seeds)
def test_crop_equals_torchvision(
    height: int, width: int, size: int, keep: float, mode: str, seed: int
) -> None:
    preprocess = replace(PHOTO, geometry="crop", size=size, keep=keep, interpolation=mode)
    picture = photo(height, width, seed)
    framed = preprocess.frame(picture)
    assert (framed.shape, framed.dtype) == ((3, size, size), torch.uint8)
    if max(height, width) <= LONGEST * min(height, width):
        assert torch.equal(framed, cropped_by_torchvision(picture, size, keep, mode))


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(100, 400), st.booleans(), seeds)
def test_crop_of_a_long_picture_keeps_its_centre(
    short: int, long: int, upright: bool, seed: int
) -> None:
    """The middle is white, the rest noise: all that a square shows is white."""
    preprocess = replace(PHOTO, geometry="crop", keep=0.875)
    picture = photo(long, short, seed)
    reach = 2 * short + 1
    picture[:, long // 2 - reach : long // 2 + reach] = 255
    framed = preprocess.frame(picture if upright else picture.mT)
    assert (framed == 255).all()


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_line_of_pixels_takes_little_memory(geometry: str, shape: tuple[int, int]) -> None:
    """Its short side at 256 pixels, all of it, would take 11 gigabytes."""
    picture = torch.zeros(3, *shape, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    framed = replace(PHOTO, size=224, geometry=geometry, keep=0.875).frame(picture)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert framed.shape == (3, 224, 224)
    assert more * (1 if sys.platform == "darwin" else 1024) < 200e6


@settings(max_examples=100)
@given(long_sides, long_sides, sizes, modes, seeds)
def test_squash_equals_torchvision(
    height: int, width: int, size: int, mode: str, seed: int
) -> None:
    preprocess = replace(PHOTO, geometry="squash", size=size, interpolation=mode)
    picture = photo(height, width, seed)
    assert torch.equal(preprocess.frame(picture), by_torchvision(picture, mode, [size, size]))


@settings(max_examples=100)
@given(long_sides, long_sides, sizes, modes, seeds)
def test_letterbox_shows_all_of_the_picture_between_bars(
    height: int, width: int, size: int, mode: str, seed: int
) -> None:
    preprocess = replace(PHOTO, geometry="letterbox", size=size, interpolation=mode)
    picture = photo(height, width, seed)
    framed = preprocess.frame(picture)
    assert framed.shape == (3, size, size)
    longest = max(height, width)
    rows, columns = (max(1, round(size * side / longest)) for side in (height, width))
    assert max(rows, columns) == size
    top, left = (size - rows) // 2, (size - columns) // 2
    inner = framed[:, top : top + rows, left : left + columns]
    assert torch.equal(inner, by_torchvision(picture, mode, [rows, columns]))
    bars = torch.ones(size, size, dtype=torch.bool)
    bars[top : top + rows, left : left + columns] = False
    mean_colour = torch.tensor([102, 128, 153], dtype=torch.uint8)  # 0.4, 0.5, 0.6 of 255
    assert (framed[:, bars] == mean_colour[:, None]).all()


def test_bars_are_zero_to_the_network() -> None:
    preprocess = replace(PHOTO, geometry="letterbox", mean=(0.2, 0.4, 0.8))
    numbers = preprocess(preprocess.frame(photo(8, 80, 0))[None])
    assert numbers[..., :10, :].abs().max() < 1e-6


@settings(max_examples=200)
@given(long_sides, long_sides, sizes, modes, seeds, st.data())
def test_cut_equals_torchvision(
    height: int, width: int, size: int, mode: str, seed: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall, wide = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    preprocess = replace(PHOTO, geometry="crop", size=size, interpolation=mode)
    picture = photo(height, width, seed)
    expected = v2.functional.resized_crop(
        picture, top, left, tall, wide, [size, size], v2.InterpolationMode(mode), antialias=True
    )
    assert torch.equal(preprocess.cut(picture, (top, left, tall, wide)), expected)


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_the_right_size_is_not_touched(geometry: str, mode: str) -> None:
    preprocess = replace(PHOTO, geometry=geometry, interpolation=mode)
    picture = photo(32, 32, 5)
    assert torch.equal(preprocess.frame(picture), picture)
    assert torch.equal(
        preprocess.cut(photo(50, 60, 6), (3, 4, 32, 32)), photo(50, 60, 6)[:, 3:35, 4:36]
    )


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
def test_grey_and_layouts_are_framed_alike(geometry: str) -> None:
    preprocess = replace(PHOTO, geometry=geometry, keep=0.875, mean=(0.5,) * 3)
    picture = photo(70, 55, 7)
    framed = preprocess.frame(picture)
    assert torch.equal(preprocess.frame(picture.contiguous()), framed)
    grey = replace(preprocess, channels=1, mean=(0.5,), std=(0.2,))
    for channel in range(3):
        alone = grey.frame(picture[channel : channel + 1])
        assert torch.equal(alone[0], framed[channel])


def test_real_photos_are_framed_as_torchvision_does() -> None:
    """And, but for what is rounded on the way, as Pillow does."""
    preprocess = replace(PHOTO, geometry="crop", size=224, keep=0.875)
    for _, image in first_photos(12):
        picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        framed = preprocess.frame(picture)
        assert torch.equal(framed, cropped_by_torchvision(picture, 224, 0.875, "bilinear"))
        by_pillow = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(image)
        difference = framed.permute(1, 2, 0).numpy() - np.asarray(by_pillow).astype(float)
        assert np.abs(difference).max() <= 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    return looked_at(write_pictures(folder / "pictures", 30), folder / "cache")


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
def test_statistics_of_photos_equal_numpy(geometry: str, photos: Photos) -> None:
    preprocess = replace(PHOTO, geometry=geometry, keep=0.8)
    images = own_images(photos)
    # Bars would count in the statistics that they are made of.
    framed = replace(preprocess, geometry="squash" if geometry == "letterbox" else geometry)
    squares = np.stack([framed.frame(photos.pixels(k)).numpy() for k in range(30)]) / 255
    mean, std = channel_statistics(images, preprocess)
    np.testing.assert_allclose(mean, squares.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, squares.std(axis=(0, 2, 3)), rtol=1e-12)


def test_statistics_are_taken_from_pictures_all_over_the_set(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = own_images(photos)
    few = own_images(photos[np.array([0, 9, 19, 29])])
    preprocess = replace(PHOTO, geometry="crop")
    expected = channel_statistics(few, preprocess)
    assert channel_statistics(images, preprocess) != expected
    monkeypatch.setattr("deepcnn.data.splits.SAMPLED", 4)
    assert channel_statistics(images, preprocess) == expected


def test_statistics_of_arrays_do_not_depend_on_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    images = own_images()
    whole = channel_statistics(images, UNIT)
    np.testing.assert_allclose(whole[1], (own_pixels() / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    monkeypatch.setattr("deepcnn.data.splits.SAMPLED", 7)
    assert channel_statistics(images, UNIT) == whole


def test_pictures_in_files_are_preprocessed_as_set(photos: Photos) -> None:
    images = own_images(photos)
    data = Data(name="./own", geometry="squash", keep=0.5, size=20, pad=2)
    found = make_preprocess(data, images)
    assert (found.geometry, found.keep, found.size, found.pad) == ("squash", 0.5, 20, 2)
    assert found.least == 2 * 40
    assert found.input_size == 24
    assert (found.mean, found.std) == channel_statistics(images, found)
    raw = make_preprocess(replace(data, size=0, pixels="raw"), images)
    assert (raw.size, raw.least, raw.std) == (224, 2 * 448, (1 / 255,) * 3)
    equal = photos[np.flatnonzero((photos.sizes == 16).all(axis=1))]
    assert make_preprocess(Data(name="./own"), own_images(equal)).size == 16
