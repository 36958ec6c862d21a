"""docs/api.md has every error that a client can meet."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.edge import edge
from app.errors import AnsweredError, ConfigError, NodeError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
ROWS = {
    (int(status), code)
    for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]+) \|", PAGE.split("## Errors")[1], re.MULTILINE)
    for code in re.findall(r"`(\w+)`", codes)
}
BETWEEN_NODES = PAGE.split("Nodes among themselves")[1].split("##")[0]
ELSEWHERE = (AnsweredError, ConfigError)
"""Passed on as they came; and never answered."""


def tree(kind: type[NodeError]) -> Iterator[type[NodeError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from tree(inner)


@pytest.mark.parametrize("kind", [kind for kind in tree(NodeError) if kind.__module__.startswith("app.") and kind not in ELSEWHERE])
def test_an_error_is_documented_with_its_status(kind: type[NodeError]) -> None:
    assert (kind.status, kind.code) in ROWS or f"`{kind.code}`" in BETWEEN_NODES


def test_there_is_something_to_compare() -> None:
    assert (edge.HeaderTooLarge.status, edge.HeaderTooLarge.code) in ROWS
    assert len(ROWS) > 25


def test_what_the_protocol_says_by_itself_is_documented_too() -> None:
    source = (Path(edge.__file__).parent / "protocol.py").read_text()
    said = {(int(status), code) for status, code in re.findall(r'_(?:refuse|write_error)\((\d{3}), "(\w+)"', source)}
    assert len(said) >= 5
    assert said <= ROWS
