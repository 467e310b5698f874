"""Lesson 25: an event without a producer, or a field that nobody reads, is a paper surface.

That what is read is shown as it was logged is tested with the screens.
"""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import esper_agents
import esper_env
from esper_env.leyline import events

PACKAGES = [Path(package.__file__).parent for package in (esper_agents, esper_env)]
TREES = {path: ast.parse(path.read_text()) for package in PACKAGES for path in package.rglob("*.py")}
SHOWN_NOWHERE = {"metrics.py", "sinks.py", "sql.py", "timeline.py", "replay.py"}
"""What feeds TensorBoard, Weights & Biases and queries is no screen."""
READERS = [
    tree
    for path, tree in TREES.items()
    if ("karn" in path.parts and path.name not in SHOWN_NOWHERE) or path.name == "detectors.py"
]


def imports(tree, name):
    """Whether a module has the event of that name, and no other class called so."""
    return any(
        isinstance(node, ast.ImportFrom) and node.module == events.__name__ and name in {a.name for a in node.names}
        for node in ast.walk(tree)
    )


def calls(tree, name):
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("event", events.EVENTS.values(), ids=list(events.EVENTS))
def test_every_event_is_made_by_one_module(event):
    name = event.__name__
    makers = [path for path, tree in TREES.items() if imports(tree, name) and calls(tree, name)]
    assert len(makers) == 1, makers


@pytest.mark.parametrize("event", events.EVENTS.values(), ids=list(events.EVENTS))
def test_every_field_is_read_by_a_screen_or_a_detector(event):
    read = {node.attr for tree in READERS for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named = {node.value for tree in READERS for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert [f.name for f in fields(event) if f.name not in read | named] == []
