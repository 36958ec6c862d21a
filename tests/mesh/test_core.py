"""The core is pure: what it knows of time, chance and the network is passed in, so that wall clocks, for one, cannot touch it."""

import ast
from pathlib import Path

import pytest

import app.mesh

PURE = ("members", "messages", "wire", "claims", "detector", "gossip", "mesh", "receive", "ring", "seeds", "settings", "sync", "news")
ALLOWED = {
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "random",
    "re",
    "typing",
}
SOURCES = Path(app.mesh.__file__).parent


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_neither_clock_nor_loop_nor_socket_nor_log(module: str) -> None:
    tree = ast.parse((SOURCES / f"{module}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {f"app.mesh.{each}" for each in PURE} | {"app.errors"}
    assert {name.split(".")[0] for name in names - own} <= ALLOWED, sorted(names)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_draws_only_from_the_randomness_it_was_given(module: str) -> None:
    tree = ast.parse((SOURCES / f"{module}.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"}
    assert used <= {"Random"}  # the type
