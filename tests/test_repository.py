"""Limits that keep the repository readable, and content that must not be in it."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_LINES, TEST_LINES, FUNCTION_LINES = 500, 600, 50


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


PYTHON = [path for path in tracked("*.py") if "kit" not in path.parts]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_python_files_are_found() -> None:
    assert len(PYTHON) > 80


def test_no_file_is_too_long() -> None:
    for path in PYTHON:
        limit = TEST_LINES if "tests" in path.parts else SOURCE_LINES
        assert len(path.read_text().splitlines()) <= limit, path


def test_no_function_is_too_long() -> None:
    for path in PYTHON:
        for function in functions(path):
            length = (function.end_lineno or 0) - function.lineno + 1
            assert length <= FUNCTION_LINES, f"{path}: {function.name} has {length} lines"


def test_class_names_are_unique() -> None:
    places: dict[str, list[Path]] = {}
    for path in tracked("mcp_guard/*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path)
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_every_module_has_a_docstring() -> None:
    for path in PYTHON:
        if "tests" not in path.parts or path.name != "__init__.py":
            assert ast.get_docstring(parsed(path)), path


def test_sql_is_only_in_the_storage_package() -> None:
    """And in the stand-alone verifier."""
    for path in tracked("mcp_guard/*.py"):
        speaks = re.search(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE|PRAGMA)\b", path.read_text())
        if speaks and "storage" not in path.parts:
            assert path.parent.name == "sources", path


@pytest.mark.parametrize(
    "forbidden",
    [r"/work/", r"/root/", r"/home/(?!you\b)", r"\bTODO\b", r"\bFIXME\b", r"registry\.npmjs", r"pypi\.org/simple"],
)
def test_repository_contains_no_machine_paths(forbidden: str) -> None:
    for path in tracked():
        if path.name == "test_repository.py" or path.suffix in (".png", ".sqlite"):
            continue
        result = re.search(forbidden, path.read_text(errors="replace"))
        assert result is None, f"{path}: {result}"


def test_repository_contains_no_links() -> None:
    """Git keeps a link to a folder of one machine as a file, and every clone then lacks that folder."""
    staged = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [line for line in staged.splitlines() if line.startswith("120000")]


def test_unsafe_switches_are_named_unsafe() -> None:
    """A switch that weakens a guarantee starts with `unsafe_`, and has no other name."""
    text = "".join(path.read_text() for path in (ROOT / "mcp_guard" / "config").glob("*.py"))
    assert not re.search(r"^\s+(skip|disable|insecure|no)_(?!proxy:)\w+:", text, re.MULTILINE)


def test_every_promise_has_a_test_file() -> None:
    kept = {path.name.split("_")[1] for path in (ROOT / "tests" / "promises").glob("test_p*.py")}
    assert {"p1", "p2", "p3", "p5", "p6", "p9", "p10", "p11"} <= kept
