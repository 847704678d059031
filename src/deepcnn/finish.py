"""The end of a run: the test set is read once, and the finished model committed."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deepcnn import artefact, calibration, checkpoint, curves, models, speed
from deepcnn.data.images import ImageSet
from deepcnn.device import peak_memory
from deepcnn.errors import SaveError
from deepcnn.evaluate import predictions, summary
from deepcnn.files import Damaged
from deepcnn.models import transfer
from deepcnn.predictions import FILE, Predictions
from deepcnn.predictions import keep as keep_predictions
from deepcnn.report.document import FILE as REPORT
from deepcnn.report.document import write_report
from deepcnn.run import Run


def finish(run: Run) -> dict[str, Any]:
    """Read the test set once, with the final weights in fp32, and commit the finished model."""
    config, splits, state = run.config, run.splits, run.state
    transfer.freeze(state.model, 0)
    num_updates = state.step
    keep_best(run)
    model, policy = run.final_model(), run.policy.exact()

    def said(images: ImageSet) -> Predictions:
        with run.watch.during("evaluating"):
            found = predictions(model, run.source(images), policy)
        return replace(found, images=images.fingerprint)

    results = {name: said(images) for name, images in splits.parts().items() if name != "train"}
    temperature = None
    if held_out := results.get("validation"):
        temperature = calibration.fit_temperature(held_out.logits, held_out.labels)
    classes = splits.test.classes
    measured = {
        name: summary(result, classes, temperature) for name, result in sorted(results.items())
    }
    facts = {
        **measured,
        "temperature": temperature,
        "num_train_images": len(splits.train),
        "num_parameters": models.num_parameters(state.model),
        "seconds": state.seconds,
        "config": asdict(config),
        "policy": asdict(run.policy),
        "data_fingerprint": splits.fingerprint,
        **run.spent(num_updates),
        **speed.facts(run),
    }
    run.record(event="result", step=state.step, **measured)
    picture = run.folder / "learning-curve.png"
    try:
        curves.learning_curve(state.events, picture)
    except OSError as error:
        run.warn(f"cannot write {picture}: {error.strerror}")
    run.catch_up()
    try:
        keep_predictions(run.folder, results)
    except OSError as error:
        raise _no_room(run.folder / FILE, error) from error
    peak = peak_memory(policy.device)
    facts |= {"peak_memory": peak, "forecast": run.foreseen.as_dict(peak)}
    _save_model(run, facts)
    report(run)
    return facts | run.spent(num_updates)


def report(run: Run, live: bool = False) -> None:
    """Write the page of the run, as far as it has got; what goes wrong with that spoils nothing."""
    try:
        write_report(run.folder, run.splits.test, live)
    except Exception as error:  # what it tells of is safe, and it can be written at any time
        reason = error.strerror if isinstance(error, OSError) else error
        run.warn(f"cannot write {run.folder / REPORT}: {reason}")


def keep_best(run: Run) -> None:
    """Go back to the weights that were best on validation images, if the settings say so."""
    state = run.state
    if run.config.train.keep == "last" or state.best_step in (-1, state.step):
        return
    place = run.folder / "checkpoints" / f"step-{state.best_step:09d}"
    events, seconds = state.events, state.seconds
    try:
        checkpoint.load(place, state)
    except (OSError, Damaged) as reason:
        raise SaveError(
            f"the best weights cannot be read from {place}: {reason}. Repeat the command with "
            "--train.keep last --accept-change to finish with the last ones"
        ) from reason
    state.events, state.seconds = events, seconds
    run.display.say(
        f"weights of update {state.step}, the best on validation images: {state.best_accuracy:.2%}"
    )


def _save_model(run: Run, facts: dict[str, Any]) -> None:
    folder, splits = run.folder / "model", run.splits
    weights = run.state.final_weights()
    try:
        artefact.save(
            folder, run.config.model.name, weights, splits.preprocess, splits.test.classes, facts
        )
    except (OSError, Damaged) as error:
        raise _no_room(folder, error) from error


def _no_room(place: Path, error: Exception) -> SaveError:
    return SaveError(
        f"the finished model could not be written to {place}: {error}. Make room and repeat the "
        "command: it goes on from the last checkpoint"
    )
