"""The part of the command line that shows what came of runs: `deepcnn report`."""

from pathlib import Path

from deepcnn.cli_data import write


def report(*runs: Path, out: Path | None = None) -> None:
    """Write a page about a run, or about several side by side, and print where it is.

    The page is one file that needs no network and opens in any browser: results with their
    intervals, curves, confusions, calibration, mistakes, filters, cost and recipe. A run that is
    not finished gets as much of it as is known. Examples:

    deepcnn report runs/fashion-mnist
    deepcnn report runs/lenet runs/alexnet --out both.html

    Parameters
    ----------
    runs
        Run folders; several are compared, and have to be finished.
    out
        HTML file to write; default report.html in the run folder, or comparison.html.
    """
    from deepcnn.report.document import FILE, document

    page = document(runs)
    path = out or (runs[0] / FILE if len(runs) == 1 else Path("comparison.html"))
    write(path, page.encode())
    print(path)
