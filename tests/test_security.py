"""SECURITY.md, checked: each promise names tests that show it, and those tests are there."""

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
TEXT: Final = (ROOT / "SECURITY.md").read_text()
NAMED: Final = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


def rows() -> list[list[str]]:
    """The cells of each row of the tables of promises."""
    tables = re.findall(r"\| promise \| shown by \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", TEXT)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


def functions_of(path: str) -> set[str]:
    """The names of a file's test functions, without importing it."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_promise_names_a_test() -> None:
    """No row of a table promises something that nothing shows, and no name is written in a way that is not checked."""
    assert len(rows()) > 20
    for _, shown in rows():
        assert shown
        assert all(re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", name) for name in shown.split("<br>")), shown
    assert TEXT.count("::test_") == len(re.findall(r"`tests/[\w/]+\.py::test_\w+`", TEXT))


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_named_test_exists(path: str) -> None:
    """A test that is renamed or removed takes its promise along, or this fails."""
    assert {name for named, name in NAMED if named == path} <= functions_of(path)


def test_every_link_leads_somewhere() -> None:
    """Links are to files of this repository."""
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
