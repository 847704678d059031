"""A run as a page: what stands in each part of it.

Names of classes and files, settings and messages are data. All that the templates put out passes
through `shown`, and is then escaped.
"""

import functools
import hashlib
import shlex
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepcnn import calibration, metrics, models
from deepcnn.config import Config
from deepcnn.data.doctor_report import printable
from deepcnn.data.images import ImageSet
from deepcnn.progress import duration
from deepcnn.report import figures
from deepcnn.report.answers import confusion, gallery, rows_of_classes
from deepcnn.report.effort import cost_of, speed, time_of
from deepcnn.report.gather import Record
from deepcnn.settings import flat, to_toml

REFRESH = 10  # seconds after which a page of a run still going is read again
SPLITS = ("test", "validation")

Context = dict[str, Any]


def run_page(record: Record, images: ImageSet | str, live: bool = False) -> str:
    """The page of a run; `images` are those of its test, or why they cannot be shown."""
    results = {name: result for name in SPLITS if (result := result_of(record, name))}
    return rendered(
        "run.html",
        title=record.name,
        refresh=REFRESH if live else 0,
        headline=headline(record),
        missing=missing(record, images),
        tiles=tiles(record, results),
        results=results,
        curves=curves_of(record),
        confusion=confusion(record),
        classes=rows_of_classes(results["test"]["per_class"]) if "test" in results else [],
        calibration=calibration_of(record),
        galleries=gallery(record, images),
        filters=filters_of(record),
        **data_of(record),
        cost=cost_of(record),
        **time_of(record),
        conditions=conditions(record),
        recipe=recipe(record.config).splitlines(),
        command=shlex.join(record.environment.get("command", ())),
        folder=str(record.folder),
    )


def rendered(template: str, **context: Any) -> str:
    """A template of this package as a page that loads nothing, and runs nothing but its own script.

    The policy in its head names that script and the style by their hashes, and allows no address.
    """
    return environment().get_template(template).render(**context)


@functools.cache
def environment() -> Environment:
    """What the templates are filled in by, with the style, script and policy of all pages."""
    made = Environment(
        loader=PackageLoader("deepcnn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent}
    folder = files("deepcnn.report") / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    made.globals |= {
        "style": Markup(style), "script": Markup(script), "policy": Markup(policy),
    }  # fmt: skip
    return made


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def shown(value: Any) -> Any:
    """Text as a page can show it: what cannot be printed, such as a change of direction, is told as
    an escape; None becomes a dash.
    """
    if value is None:
        return "-"
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float | None, digits: int = 2) -> str:
    """A share in hundredths."""
    return "-" if share is None else f"{share:.{digits}%}"


def result_of(record: Record, split: str) -> dict[str, Any] | None:
    """What was measured on a split at the end; None before. Earlier versions measured less."""
    found = record.finished.meta.get(split) if record.finished else None
    unknown = dict.fromkeys(("balanced_accuracy", "calibration_error", "calibrated"))
    return {**unknown, **found} if found else None


def headline(record: Record) -> str:
    """What this run is, in a sentence."""
    config = record.config
    text = f"{config.model.name} on {config.data.name}"
    if record.finished:
        return f"{text}, epochs: {len(record.epochs)}"
    planned = duration(config.train.budget) if config.train.budget else config.train.epochs
    return f"{text}: not finished, epochs done: {len(record.epochs)} of {planned}"


def missing(record: Record, images: ImageSet | str) -> list[str]:
    """What a full report would have, and why this one has not got it."""
    if not record.finished:
        return [
            "Results, calibration, confusions and mistakes are measured when the run is finished. "
            "The command that began it goes on with it."
        ]
    notes = []
    if not record.answers:
        notes.append("No answers are kept, so confusions and mistakes are not known.")
    elif number := int((metrics.answers(record.answers["test"].logits) < 0).sum()):
        notes.append(f"No answer, for not every logit was finite, to test images: {number:,}.")
    if record.answers and isinstance(images, str):
        notes.append(f"Without pictures: {images}.")
    if not record.finished.meta.get("validation"):
        notes.append("No images were held out, so no temperature was fitted.")
    return notes


def tiles(record: Record, results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers that matter: what, how much, and a remark."""
    found = []
    if test := results.get("test"):
        low, high = test["interval"]
        remark = f"95 % interval {low:.2%} to {high:.2%}, {test['num_images']:,} images"
        found.append(("test accuracy", f"{test['accuracy']:.2%}", remark))
        if (error := test["calibration_error"]) is not None:
            calibrated = test["calibrated"]
            after = calibrated["calibration_error"] if calibrated else error
            remark = f"with temperature, {error:.2%} without" if calibrated else "no temperature"
            found.append(("calibration error", f"{after:.2%}", remark))
    elif record.epochs:
        newest = record.epochs[-1]
        name = "validation" if "validation_accuracy" in newest else "train"
        value = f"{newest[f'{name}_accuracy']:.2%}"
        found.append((f"{name} accuracy", value, f"after epoch {newest['epoch']}"))
    if record.epochs:
        seconds = record.epochs[-1]["seconds"]
        found.append(("training time", duration(seconds), speed(record)))
    if network := record.network():
        number = models.num_parameters(network)
        found.append(("parameters", f"{number:,}", record.config.model.name))
    return found


def curves_of(record: Record) -> list[tuple[str, str]]:
    """Pictures of the training, and what they show."""
    found = []
    if any(event["event"] == "step" for event in record.events):
        found.append((figures.training_loss(record.events), "training loss by update"))
    if record.epochs:
        found.append((figures.accuracies(record.events), "accuracy by epoch"))
    return found


def calibration_of(record: Record) -> Context | None:
    """How far confidence can be believed; None where no answers are kept."""
    if not record.finished or not (said := record.answers.get("test")):
        return None
    temperature = record.finished.meta.get("temperature")
    pictures = []
    for value, title in ((1.0, "As the network says it"), (temperature, "With temperature")):
        if value:
            bins = calibration.reliability(*calibration.judged(said.logits, said.labels, value))
            pictures.append((figures.reliability(bins, title), f"reliability: {title.lower()}"))
    judged = calibration.judged(said.logits, said.labels, temperature or 1.0)
    pictures.append((figures.coverage(*judged), "accuracy by share of images answered"))
    return {
        "pictures": pictures,
        "temperature": temperature,
        "coverage": calibration.accuracy_by_coverage(*judged),
    }


def filters_of(record: Record) -> Context | None:
    """The first layer as a picture; None where there is nothing to see."""
    weight = record.filters()
    if weight is None:
        return None
    number, _, height, width = weight.shape
    kept = record.kept_filters()
    return {
        "source": figures.filters(weight),
        "evolution": figures.evolution(kept) if len(kept) > 1 else "",
        "epochs": [min(kept), max(kept)] if kept else [],
        "text": f"{number} filters of {height}x{width}, each to its own scale; middle grey is 0.",
    }


def data_of(record: Record) -> Context:
    """What was learnt from, and what a glance at it found."""
    names = {"train": "training", "validation": "held out", "test": "test"}
    counts = record.data.get("images", {})
    facts = [("data set", record.config.data.name)]
    facts += [(f"{names[name]} images", f"{number:,}") for name, number in counts.items()]
    if record.classes:
        facts.append(("classes", f"{len(record.classes):,}"))
    if record.input:
        facts.append(("network input", "x".join(map(str, record.input))))
    facts.append(("fingerprint", str(record.environment.get("data_fingerprint"))))
    return {"data_facts": facts, "glance": record.data.get("glance")}


def conditions(record: Record) -> list[tuple[str, str]]:
    """Where the run was made: machine, device policy, versions."""
    facts = record.environment
    sections = [facts.get("machine", {}), facts.get("policy", {}), facts.get("versions", {})]
    rows = [(str(key), str(value)) for section in sections for key, value in section.items()]
    rows += [(key, str(facts[key])) for key in ("python", "platform") if key in facts]
    rows.append(("policy chosen", facts.get("policy_origin") or "-"))
    rows.append(("commit", facts.get("commit") or "-"))
    rows += [("changed on the way", change) for change in facts.get("accepted_changes", ())]
    # The version of torch stands among the facts of the machine and among the versions.
    return list(dict(rows[::-1]).items())[::-1]


def recipe(config: Config) -> str:
    """All settings as a file for `deepcnn train --config`."""
    defaults = flat(Config())
    origins = {
        name: "default" if value == defaults[name] else "set"
        for name, value in flat(config).items()
    }
    return to_toml(config, origins)
