"""The import rules of the architecture, read from the source, and what an import brings in."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import esper_agents
import esper_env

ROOT = Path(esper_env.__file__).parent
RUN_TIME = {"gymnasium", "numpy", "torch", "safetensors"}
LAZY = {"torchvision": {"data.py"}, "matplotlib": {"rendering.py"}, "PIL": {"rendering.py"}, "tqdm": {"data.py"}}
"""Packages that only these files may import, and only inside a function."""


def layer(path):
    """Rank of a file: a file imports only from its own rank or below."""
    first = path.relative_to(ROOT).parts[0]
    return {"leyline": 0, "nissa": 1, "kasmina": 1, "tolaria": 2}.get(first, 3)


def imports(path):
    """(module, at the top level of the file) of every import; a relative one is a failure."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "esper_env" else []
            yield from ((name, id(node) in top) for name in names or [node.module])


def test_the_packages_are_typed_and_say_their_version():
    for package in (esper_env, esper_agents):
        assert (Path(package.__file__).parent / "py.typed").is_file()
        assert package.__version__ == version("esper")


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_one_way(path):
    """leyline <- kasmina <- tolaria <- the environment's files; nissa imports only leyline."""
    for module, _ in imports(path):
        parts = module.split(".")
        assert parts[0] not in {"esper_agents", "benchmarks", "stable_baselines3", "sb3_contrib", "tensorboard"}
        if parts[0] == "esper_env":
            target = parts[1] if len(parts) > 1 else ""
            here = path.relative_to(ROOT).parts[0]
            rank = {"leyline": 0, "nissa": 1, "kasmina": 1, "tolaria": 2}.get(target, 3)
            assert rank <= layer(path), f"{module} is above {path}"
            if rank == 1 and layer(path) == 1:
                assert target == here, f"{here} imports {target}"
            if target == "testing":
                assert here == "testing", "the conformance kit is for users and tests"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_only_four_packages_are_imported_at_run_time(path):
    for module, at_top in imports(path):
        package = module.split(".")[0]
        if package in sys.stdlib_module_names or package in RUN_TIME or package == "esper_env":
            continue
        assert package in LAZY and path.name in LAZY[package], f"{path} imports {module}"
        assert not at_top, f"{path} imports {module} at the top"


def test_importing_the_package_loads_nothing_that_it_does_not_need():
    heavy = ["esper_agents", "stable_baselines3", "tensorboard", "torchvision", "matplotlib", "pydantic", "pandas"]
    code = f"import sys, esper_env; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_leyline_is_values_and_rules_only():
    for path in (ROOT / "leyline").glob("*.py"):
        packages = {module.split(".")[0] for module, _ in imports(path)}
        assert packages <= {"esper_env"} | sys.stdlib_module_names, path
