"""A map of images by what the last hidden layer makes of them: alike is near.

N images, D features.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepcnn import probe
from deepcnn.errors import ConfigError, DataError
from deepcnn.inspect.panels import Colours, colours_of
from deepcnn.inspect.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["pca", "tsne"]

FEWEST = 3  # images that make a map
PERPLEXITY = 30.0  # van der Maaten and Hinton 2008: between 5 and 50
CANVAS, THUMBNAIL, FRAME = 1_600, 40, 3  # pixels a side; the frame has the colour of the class
MOST_NAMED = 20  # classes, for which there are colours


def draw_embedding(subject: Subject, method: Method, sample: int) -> "Figure":
    """A map of `sample` test images, 0: of all, with a thumbnail of each.

    Raises DataError where there are too few images, ConfigError where the method is not installed.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    place = {"pca": by_pca, "tsne": by_tsne}[method]
    if sample < 0:
        raise ConfigError(f"--sample is {sample}, expected at least {FEWEST}, or 0 for all images")
    images = subject.images("test", sample)
    if len(images) < FEWEST:
        raise DataError(f"{len(images)} test images make no map; it takes at least {FEWEST}")
    pixels = subject.source(images)
    places, words = place(probe.features(subject.model, pixels, subject.policy))
    pairs = colormaps["tab20"](np.arange(MOST_NAMED))[:, :3].astype(np.float32)
    palette = np.concatenate([pairs[::2], pairs[1::2]])  # the dark ones first
    inks = palette[images.labels % MOST_NAMED]
    thumbnails = [
        F.interpolate(subject.shown(batch.images), (THUMBNAIL, THUMBNAIL), mode="area")
        for batch in pixels.batches(torch.arange(len(images)).split(pixels.at_once()))
    ]
    figure = Figure(figsize=(12, 11), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas(colours_of(torch.cat(thumbnails)), places, inks))
    axes.set_axis_off()
    title = f"{len(images):,} test images by the last hidden layer of {subject.name}: {words}"
    axes.set_title(title, loc="left", parse_math=False)
    handles = [Patch(color=ink, label=name) for ink, name in zip(palette, images.classes)]  # noqa: B905
    legend = figure.legend(handles=handles, loc="outside right upper", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def by_pca(features: Tensor) -> tuple[Tensor, str]:
    """The first two principal components of features N D, N 2, and what to say of them.

    A component points to where its largest weight is positive.
    """
    centred = features - features.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    if len(directions) < 2:  # a single feature
        return F.pad(centred, (0, 1)), "it has one feature"
    first = directions[:2]
    signs = first.gather(1, first.abs().argmax(dim=1, keepdim=True)).sign()
    share = float(sizes[:2].square().sum() / sizes.square().sum().clamp_min(1e-300))
    return centred @ (first * signs).T, f"two principal components, {share:.0%} of the variance"


def by_tsne(features: Tensor) -> tuple[Tensor, str]:
    """The t-SNE of features N D, N 2: van der Maaten and Hinton 2008, by scikit-learn."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ConfigError(
            f"t-SNE needs scikit-learn, which cannot be imported ({error}). Install it with: "
            "pip install 'deepcnn[inspect]'"
        ) from error
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, random_state=0).fit_transform(features.numpy())
    return torch.from_numpy(places), f"t-SNE, perplexity {perplexity:.3g}"


def canvas(thumbnails: Colours, places: Tensor, inks: NDArray[np.float32]) -> Colours:
    """Thumbnails N H W 3 at their places N 2, each in a frame of its ink N 3; later ones lie above.

    The first coordinate goes to the right, the second up.
    """
    spread = places - places.amin(dim=0)
    shares = (spread / spread.amax(dim=0).clamp_min(1e-12)).numpy()
    side = THUMBNAIL + 2 * FRAME
    paper = np.ones((CANVAS, CANVAS, 3), np.float32)
    corners = np.rint(shares * (CANVAS - side)).astype(int)
    for thumbnail, ink, (left, above) in zip(thumbnails, inks, corners, strict=True):
        top = CANVAS - side - above
        paper[top : top + side, left : left + side] = ink
        inner = slice(top + FRAME, top + side - FRAME), slice(left + FRAME, left + side - FRAME)
        paper[inner] = thumbnail
    return paper
