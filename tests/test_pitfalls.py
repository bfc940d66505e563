"""docs/pitfalls.md names a test for each mistake on the list, and each of them is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.simulation import bugs

HERE = Path(__file__).resolve().parent
TABLE = (HERE.parent / "docs" / "pitfalls.md").read_text()
ROWS = {row[1]: row[2] for row in re.finditer(r"^\| ([RS]\d+) \|[^|]*\| (.*) \|$", TABLE, re.MULTILINE)}
REFERENCE = re.compile(r"[\w/]+\.py::[\w*]+|\w+\.txt|bug:\w+")


def test_no_mistake_is_left_out() -> None:
    assert list(ROWS) == [f"R{number}" for number in range(1, 26)] + [f"S{number}" for number in range(1, 15)]
    for id_, cell in ROWS.items():
        assert REFERENCE.search(cell), id_


def test_what_is_open_is_said_as_such_and_nothing_hides_in_a_cell() -> None:
    """References, then perhaps an "Open: …" of what they leave out: no words in which a gap could hide."""
    for id_, cell in ROWS.items():
        looked_for, _, _ = cell.partition(". Open: ")
        assert all(REFERENCE.fullmatch(each) for each in looked_for.split(", ")), id_


@pytest.mark.parametrize("id_", ROWS)
def test_what_looks_for_it_is_there(id_: str) -> None:
    for reference in REFERENCE.findall(ROWS[id_]):
        assert exists(reference), reference


def exists(reference: str) -> bool:
    if reference.startswith("bug:"):
        return hasattr(bugs, reference.removeprefix("bug:"))
    if reference.endswith(".txt"):
        return (HERE / "raft" / "scenarios" / reference).exists()
    path, _, name = reference.partition("::")
    if not (HERE / path).exists():
        return False
    tree = ast.parse((HERE / path).read_text())
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return name in tests or (name == "*" and any(each.startswith("test_") for each in tests))
