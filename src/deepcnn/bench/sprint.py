"""A recipe against the clock: seconds from first weights to test accuracy."""

import io
import time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from deepcnn import runlog
from deepcnn.begin import begin, begin_state
from deepcnn.bench import clock
from deepcnn.config import Config
from deepcnn.evaluate import predictions
from deepcnn.progress import reported
from deepcnn.train import train_epochs


def timed_run(
    config: Config, folder: Path, cache: Path, split: Literal["test", "validation"] = "test"
) -> tuple[float, float]:
    """Train into the folder; accuracy on the split and seconds.

    The data are in memory when the clock starts; it holds drawing the first weights, every update,
    the checkpoint after each epoch, and evaluation of the final weights on the split in fp32.
    """
    with runlog.opened(folder), redirect_stderr(io.StringIO()):
        run = begin(config, folder, cache, accept_change=False)
        began = time.perf_counter()
        run.state = begin_state(config, run.splits, run.policy)
        total = run.updates(config.train.epochs)
        with run.display.following(0, total):
            train_epochs(run, total)
        images = run.source(run.splits.parts()[split])
        found = predictions(run.final_model(), images, run.policy.exact())
        return found.accuracy(), time.perf_counter() - began


def over_seeds(config: Config, num_seeds: int) -> tuple[list[float], list[float]]:
    """Test accuracies and seconds of seeds 0, 1, ..., each once."""
    with TemporaryDirectory() as place:
        results = [
            timed_run(
                replace(config, train=replace(config.train, seed=seed)),
                Path(place) / f"seed-{seed}",
                Path(place) / "cache",
            )
            for seed in reported(range(num_seeds), num_seeds, "seeds")
        ]
    accuracies, seconds = zip(*results, strict=True)
    return list(accuracies), list(seconds)


def measure(name: str, config: Config, num_seeds: int) -> dict[str, Any]:
    """A recipe by name over several seeds."""
    accuracies, seconds = over_seeds(config, num_seeds)
    return {
        "recipe": name,
        "num_seeds": num_seeds,
        "accuracy": clock.spread(accuracies) | {"mean": sum(accuracies) / num_seeds},
        "seconds": clock.spread(seconds),
    }
