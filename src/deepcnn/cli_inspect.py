"""The part of the command line that looks inside a model: `deepcnn inspect ...`."""

from json import dumps as to_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from deepcnn.cli_data import Flag
from deepcnn.errors import ConfigError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RunFolder = Annotated[Path, Parameter(help="Run folder, or its model folder.")]
Image = Annotated[
    str,
    Parameter(help="Picture files, or places of test images, from 0; default the first."),
]

views = App(
    name="inspect",
    help="Look inside a finished model: a picture of what it has learnt, as PNG or SVG. RUN is a "
    "run folder, IMAGE a picture file or the place of a test image. The run is only read.",
    help_epilogue="Example: deepcnn inspect filters runs/fashion-mnist",
    help_format="plaintext",
)


@views.command
def filters(run: RunFolder, /, *, evolution: Flag = False, out: Path | None = None) -> None:
    """Draw the filters of the first layer; with --evolution, how they came about.

    Examples:

    deepcnn inspect filters runs/fashion-mnist
    deepcnn inspect filters runs/fashion-mnist --evolution --out evolution.svg

    Parameters
    ----------
    evolution
        Draw them as they were before training and after its epochs, a row each.
    out
        PNG or SVG file to write; default RUN-filters.png or RUN-evolution.png.
    """
    from deepcnn.inspect.filters import draw_evolution, draw_filters
    from deepcnn.inspect.subject import open_run

    what, draw = ("evolution", draw_evolution) if evolution else ("filters", draw_filters)
    path = _file(out, run, what)
    _write(draw(open_run(run)), path)


@views.command
def maps(
    run: RunFolder,
    image: str = "0",
    /,
    *,
    layer: str | None = None,
    out: Path | None = None,
) -> None:
    """Draw the feature maps of an image, stage by stage, or those of one layer.

    Example: deepcnn inspect maps runs/fashion-mnist shoe.png --layer stage1.conv

    Parameters
    ----------
    image
        Picture file, or place of a test image, from 0.
    layer
        Layer to draw, as `deepcnn models NAME` calls it.
    out
        PNG or SVG file to write; default RUN-maps.png.
    """
    from deepcnn.inspect.maps import draw_maps
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "maps")
    _write(draw_maps(open_run(run), image, layer), path)


@views.command
def neighbours(
    run: RunFolder,
    /,
    *images: str,
    sample: int = 10_000,
    out: Path | None = None,
    json: Flag = False,
) -> None:
    """Draw the training images that are nearest to images in the last hidden layer.

    Example: deepcnn inspect neighbours runs/fashion-mnist 3 17 shoe.png

    Parameters
    ----------
    images
        Picture files, or places of test images, from 0; default some test images.
    sample
        Among how many training images to look, at random; 0: among all.
    out
        PNG or SVG file to write; default RUN-neighbours.png.
    json
        Print the neighbours as JSON.
    """
    from deepcnn.inspect.neighbours import draw_neighbours, find_neighbours
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "neighbours")
    subject = open_run(run)
    found = find_neighbours(subject, images, sample)
    _write(draw_neighbours(subject, found), path, json)
    if json:
        print(to_json(found.as_dicts(), ensure_ascii=False))


@views.command
def separability(
    run: RunFolder,
    /,
    *,
    sample: int = 1_000,
    out: Path | None = None,
    json: Flag = False,
) -> None:
    """Measure how separable the classes become with depth: a linear classifier on each stage.

    It stands beside the same on pixels and on HOG features, and the network itself.

    Example: deepcnn inspect separability runs/fashion-mnist --sample 10000 --json

    Parameters
    ----------
    sample
        How many training images to fit to and test images to measure on, at random; 0: all.
    out
        PNG or SVG file to write; default RUN-separability.png.
    json
        Print what was measured as JSON.
    """
    from deepcnn.inspect.separability import (
        as_dicts,
        draw_separability,
        in_words,
        measure_separability,
    )
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "separability")
    subject = open_run(run)
    rows = measure_separability(subject, sample)
    print(to_json(as_dicts(rows), ensure_ascii=False) if json else in_words(rows))
    _write(draw_separability(subject, rows), path, json)


@views.command
def occlusion(
    run: RunFolder,
    /,
    *images: Image,
    out: Path | None = None,
) -> None:
    """Draw where covering a part of an image makes the network less sure of its answer.

    Example: deepcnn inspect occlusion runs/photos ant.jpg bee.jpg

    Parameters
    ----------
    out
        PNG or SVG file to write; default RUN-occlusion.png.
    """
    from deepcnn.inspect.occlusion import draw_occlusion
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "occlusion")
    _write(draw_occlusion(open_run(run), images or ("0",)), path)


@views.command
def gradcam(
    run: RunFolder,
    /,
    *images: Image,
    out: Path | None = None,
) -> None:
    """Draw which parts of an image speak for its likeliest classes, by Grad-CAM.

    Example: deepcnn inspect gradcam runs/photos ant.jpg bee.jpg

    Parameters
    ----------
    out
        PNG or SVG file to write; default RUN-gradcam.png.
    """
    from deepcnn.inspect.gradcam import draw_gradcam
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "gradcam")
    _write(draw_gradcam(open_run(run), images or ("0",)), path)


@views.command
def patches(
    run: RunFolder,
    /,
    *,
    layer: str | None = None,
    sample: int = 1_000,
    out: Path | None = None,
) -> None:
    """Draw the parts of training images that excite the channels of a network most.

    Example: deepcnn inspect patches runs/fashion-mnist --layer stage2.conv

    Parameters
    ----------
    layer
        Layer to draw, as `deepcnn models NAME` calls it; default some channels of every stage.
    sample
        Among how many training images to look, at random.
    out
        PNG or SVG file to write; default RUN-patches.png.
    """
    from deepcnn.inspect.patches import draw_patches
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "patches")
    _write(draw_patches(open_run(run), layer, sample), path)


@views.command
def embedding(
    run: RunFolder,
    /,
    *,
    method: Literal["pca", "tsne"] = "pca",
    sample: int = 500,
    out: Path | None = None,
) -> None:
    """Draw a map of test images by the last hidden layer: what looks alike to it is near.

    Example: deepcnn inspect embedding runs/fashion-mnist --method tsne --sample 1000

    Parameters
    ----------
    method
        pca, the two directions of largest variance; or tsne, which keeps neighbours together.
    sample
        How many test images to draw, at random; 0: all.
    out
        PNG or SVG file to write; default RUN-embedding.png.
    """
    from deepcnn.inspect.embedding import draw_embedding
    from deepcnn.inspect.subject import open_run

    path = _file(out, run, "embedding")
    _write(draw_embedding(open_run(run), method, sample), path)


def _file(out: Path | None, run: Path, what: str) -> Path:
    """The picture to write; ConfigError, before any work, if its name is that of no picture."""
    path = out or Path(f"{run.resolve().name}-{what}.png")
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"--out is {path}, expected a name that ends in .png or .svg")
    return path


def _write(figure: "Figure", path: Path, quiet: bool = False) -> None:
    """Write a picture and print its name."""
    from deepcnn.curves import save_picture

    try:
        save_picture(figure, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; give another --out") from error
    if not quiet:
        print(path)
