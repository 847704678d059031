"""The README says what is there: its tree is the tree, its commands are commands."""

import re
import shlex
from pathlib import Path

import pytest

from deepcnn.cli import app, take_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}\.venv/bin/deepcnn (.*?)(?: {2,}#.*)?$", README, re.MULTILINE)


def test_tree_names_every_module_and_no_other() -> None:
    tree = README.split("## The tree")[1]
    told = set(re.findall(r"^ +(?:\S+/)?(\w+\.py) ", tree, re.MULTILINE))
    source = ROOT / "src" / "deepcnn"
    there = {path.name for path in source.rglob("*.py") if path.name != "__init__.py"}
    assert told - {"reference.py"} == there


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    tokens, _ = take_settings(shlex.split(command))
    app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 5


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in makefile, target


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
