"""The report of a run, or of several, as a file."""

from collections.abc import Sequence
from pathlib import Path

from deepcnn.data.images import ImageSet
from deepcnn.errors import ConfigError, RunError
from deepcnn.files import replace_file
from deepcnn.report.gather import Record, read_record, test_images
from deepcnn.report.page import run_page

FILE = "report.html"  # in a run folder


def document(runs: Sequence[Path]) -> str:
    """The page of a run, as far as it has got, or of finished ones side by side.

    Raises RunError where there is no run, or what is there cannot be read.
    """
    if not runs:
        raise ConfigError("no run given: deepcnn report RUN ...")
    records = [read_record(run) for run in runs]
    if len(records) > 1:
        # Its statistics take a second to load, for which the end of a run need not wait.
        from deepcnn.report.side_by_side import comparison_page

        return comparison_page(records)
    (record,) = records
    return _page(record, test_images(record) if record.finished else "the run is not finished")


def write_report(run: Path, images: ImageSet | str, live: bool = False) -> None:
    """Write the page of a run into its folder; `images` are those of its test. A `live` page reads
    itself again and again. Raises RunError, OSError.
    """
    page = _page(read_record(run), images, live)
    replace_file(run / FILE, page.encode())


def _page(record: Record, images: ImageSet | str, live: bool = False) -> str:
    try:
        return run_page(record, images, live)
    except (LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{record.folder} holds a run that this version cannot tell of "
            f"({type(error).__name__}: {error}): use the version that made it, or restore a copy"
        ) from error
