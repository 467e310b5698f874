"""The documentation: its examples run, its tables are the code's, its links resolve."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pytest

from esper_env import EsperEnv, EsperVectorEnv
from esper_env.kasmina import BLUEPRINTS
from esper_env.leyline import ObservationLayout
from esper_env.settings import Settings
from esper_env.tasks import TASKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GYMNASIUM_SECTIONS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Information",
    "Arguments",
    "Version History",
]


def blocks() -> list[object]:
    """The fenced Python blocks of every page, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registries() -> Iterator[None]:
    """Leave the registries as they were."""
    places: list[dict[str, Any]] = [BLUEPRINTS, TASKS, gymnasium.registry]
    kept = [dict(place) for place in places]
    yield
    for place, before in zip(places, kept, strict=True):
        place.clear()
        place.update(before)


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("code", blocks())
def test_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "example.py"
    file.write_text(code, "utf-8")
    runpy.run_path(str(file), run_name="example")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_what_the_code_says(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == tables().renewed(text), "run `make tables`"


def test_every_generated_table_is_on_a_page() -> None:
    used = {name for page in PAGES for name in re.findall(r"<!-- table: (\w+) -->", page.read_text("utf-8"))}
    assert used == set(tables().TABLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "Makefile"], ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_commands_run_exist(page: Path) -> None:
    for module in re.findall(r" -m ((?:esper|bench)[\w.]+)", page.read_text("utf-8")):
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("module", ["esper_env.env", "esper_env.testing"])
def test_docstring_examples_run(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted and not failed


def docstring() -> str:
    text = inspect.getdoc(EsperEnv)
    assert text is not None
    return text


def test_docstring_has_gymnasiums_sections() -> None:
    sections = re.findall(r"^## (.*)$", docstring(), re.MULTILINE)
    assert [s for s in sections if s in GYMNASIUM_SECTIONS] == GYMNASIUM_SECTIONS


def test_docstring_names_every_argument() -> None:
    names = [*inspect.signature(Settings.resolve).parameters, "render_mode"]
    assert not [name for name in names if name != "task" and f"`{name}`" not in docstring()]


def test_docstring_of_the_vector_environment_names_every_argument() -> None:
    text = inspect.getdoc(EsperVectorEnv) or ""
    parameters = inspect.signature(EsperVectorEnv.__init__).parameters
    assert not [name for name in parameters if name != "self" and name not in text]


def test_docstring_and_page_name_every_key_of_the_info() -> None:
    env = EsperEnv("tiny", episode_length=1, val_samples=128)
    _, first = env.reset(seed=0)
    *_, last = env.step(0)
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    for text in (docstring(), page):
        assert not [key for key in {*first, *last} if f"`{key}`" not in text]


def test_docstring_rows_of_the_observation_cover_the_layout_with_its_ranges() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (-?\d) \| (-?\d) \|$", docstring(), re.MULTILINE)
    slots = 3
    bounds: dict[int, tuple[float, float]] = {}
    for place, low, high in rows:
        start, _, stop = place.rpartition(" + ")[2].partition("-")
        base = place.rpartition(" + ")[0] or "0"
        copies = range(slots) if "s" in base else [0]
        for s in copies:
            offset = eval(base, {"s": s, "S": slots})
            for index in range(offset + int(start), offset + int(stop or start) + 1):
                assert index not in bounds, f"{place} is not the only row of {index}"
                bounds[index] = (float(low), float(high))
    layout = ObservationLayout(("a", "b", "c"))
    assert sorted(bounds) == list(range(layout.size))
    for feature in layout.features():
        for index in range(feature.where.start, feature.where.stop):
            low, high = bounds[index]
            assert low <= feature.low and feature.high <= high, feature
