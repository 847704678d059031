"""The rules of the house that a program can check; the reasons are in docs/architecture.md."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepcnn

SOURCE = Path(deepcnn.__file__).parent

# A module imports from rows above its own only.
LEVELS = (
    ("__init__", "data", "errors", "files", "inspect", "inspect.panels", "metrics",
     "models.whitening", "phases", "profile", "table"),
    ("bench", "bench.words", "budget", "calibration", "checked", "curves", "diagnose", "forecast",
     "forecast.process", "forecast.storages", "inspect.heat", "inspect.hog", "paired", "report",
     "predictions", "interrupt", "progress", "remember", "models.card", "models.stem",
     "models.init", "models.weights", "models.lrn", "models.pool", "sizes", "data.threads"),
    ("bench.clock", "forecast.foreseen", "muon", "models.transfer", "sections"),
    ("config",),
    ("bench.sides", "bottleneck", "inspect.layers",
     "cost", "device", "recipes", "settings", "optim", "models.alexnet", "models.alexnet28",
     "models.alexnet_texts", "models.brisk", "models.compact", "models.googlenet",
     "models.lenet", "models.mlp", "models.resnet", "models.resnet_cifar", "models.speedy",
     "models.sprint", "models.vgg", "models.zoo", "models.cards.alexnet", "models.cards.compact",
     "models.cards.googlenet", "models.cards.lenet", "models.cards.resnet", "models.cards.texts",
     "models.cards.vgg"),
    ("bench.limits", "choose", "forecast.memory", "models.cards", "models.cache", "data.colour",
     "data.decode", "data.geometry", "data.holdout", "data.table", "profile.trace"),
    ("models", "models.pretrained", "runlog", "data.download", "data.folder", "data.mix",
     "data.photos", "data.policy", "data.preprocess", "profile.rows", "profile.tally"),
    ("data.augment", "data.images", "data.kept", "data.hardest", "data.views", "checkpoint",
     "describe", "profile.ceilings", "profile.counts", "profile.kinds"),
    ("bench.noise", "data.arrays", "data.scan", "artefact", "diagram", "profile.summary"),
    ("data.catalog", "data.classes", "data.duplicates", "data.show", "data.tar",
     "profile.words"),
    ("data.appearance", "data.findings"),
    ("data.doctor_report", "data.symptoms", "diagnose.findings"),
    ("data.doctor", "data.glance"),
    ("data.shards", "predict"),
    ("data.loader", "data.order", "data.pictures"),
    ("data.splits", "probe"),
    ("evaluate", "finetune", "labels", "preflight", "words", "data.sheets", "diagnose.inputs",
     "inspect.subject"),
    ("compare", "run", "diagnose.start", "inspect.embedding", "inspect.filters",
     "inspect.gradcam", "inspect.maps", "inspect.neighbours", "inspect.occlusion",
     "inspect.patches", "inspect.separability"),
    ("forecast.run", "forecast.time", "objective", "pieces", "report.gather"),
    ("forecast.start", "speed", "report.effort", "report.figures", "profile.subject"),
    ("report.answers", "profile.roofline", "profile.step", "profile.timeline"),
    ("report.page", "profile.assemble"),
    ("report.side_by_side", "profile.measure", "profile.page"),
    ("report.document",),
    ("finish",),
    ("ahead",),
    ("begin",),
    ("rehearsal", "train"),
    ("by_heart", "preview", "bench.loading", "bench.sprint", "bench.step", "cli_data",
     "diagnose.signal", "diagnose.trials", "sweep"),
    ("forecast.plan",),
    ("diagnose.judge", "diagnose.network"),
    ("diagnose.diagnosis",),
    ("diagnose.words",),
    ("cli_bench", "cli_diagnose", "cli_evaluate", "cli_inspect", "cli_profile", "cli_report",
     "cli_train"),
    ("cli_plan",),
    ("cli",),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

# This list may only become shorter. A command has an argument for each of its options.
MANY_ARGUMENTS = {
    "cli_evaluate.evaluate", "cli_profile.profile", "cli_train.train", "cli_train.finetune",
}  # fmt: skip

TEXTS = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): text
    for path in sorted(SOURCE.rglob("*.py"))
    for text in [path.read_text(encoding="utf-8")]
}
MODULES = {name: ast.parse(text) for name, text in TEXTS.items()}
FUNCTIONS = {
    f"{name}.{node.name}": node
    for name, tree in MODULES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef)
}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def imports(tree: ast.AST) -> Iterator[str]:
    """What is imported anywhere below `tree`: full names of modules, or of things in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports in full: from deepcnn.data import images"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """The modules of this package among them, without its name in front."""
    names = [name.removeprefix("deepcnn.") for name in imports(tree) if name.startswith("deepcnn.")]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} - {""}


def num_lines(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def num_arguments(node: ast.FunctionDef) -> int:
    return sum(isinstance(part, ast.arg) for part in ast.walk(node.args))


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Blocks within blocks; functions within functions begin anew, `elif` adds nothing."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deeper = isinstance(child, BLOCKS) and not is_elif
        deepest = max(deepest, nesting(child, depth + deeper))
    return deepest


def test_every_module_has_its_level() -> None:
    unknown, gone = sorted(MODULES.keys() - LEVEL.keys()), sorted(LEVEL.keys() - MODULES.keys())
    assert not unknown, f"put {unknown} into LEVELS, below the rows of all that they import"
    assert not gone, f"take {gone} out of LEVELS: there is no such module any more"


@pytest.mark.parametrize("name", LEVEL)
def test_imports_go_to_lower_levels_only(name: str) -> None:
    others = own_imports(MODULES[name])
    wrong = {other for other in others if LEVEL.get(other, 0) >= LEVEL[name]}
    assert not wrong, f"{name} imports {wrong}: move what they share to a lower module"


def test_some_parts_know_nothing_of_each_other() -> None:
    for name, tree in MODULES.items():
        part = name.partition(".")[0]
        others = {other.partition(".")[0] for other in own_imports(tree)}
        assert not (part == "data" and "models" in others), name
        assert not (part == "models" and "data" in others), name
        assert name.startswith("cli") or not any(o.startswith("cyclopts") for o in imports(tree)), (
            name
        )


def test_the_command_line_starts_without_torch() -> None:
    program = (
        "import sys, deepcnn.cli; print([m for m in sys.modules if m.split('.')[0] == 'torch'])"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not {"utils", "util", "helpers", "common", "misc", "core"} & {
        part for name in MODULES for part in name.split(".")
    }


def test_modules_are_short() -> None:
    assert not {name for name, text in TEXTS.items() if text.count("\n") > 300}


def test_functions_are_short_and_flat() -> None:
    sizes = {name: num_lines(node) for name, node in FUNCTIONS.items()}
    assert statistics.median(sizes.values()) <= 12
    assert not {name for name, size in sizes.items() if size > 60}
    deep = {name for name, node in FUNCTIONS.items() if nesting(node) > 3}
    assert not deep, f"{deep} nest more than three blocks: give an inner one a name"


def test_functions_take_few_arguments() -> None:
    many = {name for name, node in FUNCTIONS.items() if num_arguments(node) > 7}
    assert many == MANY_ARGUMENTS


def test_public_names_are_sorted() -> None:
    assert deepcnn.__all__ == sorted(set(deepcnn.__all__))
    assert all(hasattr(deepcnn, name) for name in deepcnn.__all__)
