"""Imports go one way, and what belongs to the process alone stays in its one module. Read from the sources, without running them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(APP.rglob("*.py"))}
SERVICES = sorted(path.parent.name for path in APP.glob("services/*/__init__.py"))
FOR_SERVICES = {"app.services.contract", "app.call", "app.context", "app.errors", "app.body", "app.sse", "app.session"}
FOR_SERVICES |= {"app", "app.tracing", "app.genai"}
FOR_SERVICES |= {
    "app.config.backend",
    "app.config.yaml",
    "app.config.address",
    "app.config.secret",
    "app.config.variables",
    "app.outbound",
    "app.metrics",
    "app.query",
    "app.sqlite",
}
FOR_SERVICES |= {"app.frames"}
FOR_SERVICES |= {name for name in MODULES if name == "app.postgres" or name.startswith("app.postgres.")}
CHAIN = ("app.__main__", "app.node", "app.front", "app.placement", "app.forward", "app.peers")
PROGRAMS = ("app.__main__", "app.healthcheck", "app.cli.__main__", "app.reading.__main__")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{package} imports relatively"
        assert node.module is not None
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else node.module


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of app/ that ``module`` imports, wherever in it."""
    found = {name for node in ast.walk(tree(module)) for name in _imported(node, module)}
    return frozenset(name for name in found if name == "app" or name.startswith("app."))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_there_is_something_to_read() -> None:
    assert {"agents", "inference", "memory", "tools", "observability"} <= set(SERVICES)
    assert {"app.call", "app.errors"} <= imports("app.homes")
    assert "app.services.agents.run" in imports("app.services.agents.service")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_what_services_may_and_its_own_package(service: str) -> None:
    own = f"app.services.{service}"
    for module in [name for name in MODULES if within(name, own)]:
        beyond = {name for name in imports(module) if name not in FOR_SERVICES and not within(name, own)}
        assert not beyond, f"{module} imports {sorted(beyond)}"


@pytest.mark.parametrize("module", [name for name in MODULES if not within(name, "app.services")])
def test_the_node_imports_of_the_services_only_the_contract_and_the_table(module: str) -> None:
    assert not {name for name in imports(module) if within(name, "app.services")} - {"app.services", "app.services.contract"}


@pytest.mark.parametrize("module", sorted(FOR_SERVICES))
def test_what_services_may_import_imports_no_service_and_no_part_of_the_node(module: str) -> None:
    assert not imports(module) - FOR_SERVICES - {"app.config"}


@pytest.mark.parametrize("place", range(1, len(CHAIN)))
def test_the_chain_from_main_to_peers_is_imported_in_one_direction(place: int) -> None:
    for module in [name for name in MODULES if within(name, CHAIN[place])]:
        back = {name for name in imports(module) for above in CHAIN[:place] if within(name, above)}
        assert not back, f"{module} imports {sorted(back)}"


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "app.mesh")])
def test_the_mesh_imports_nothing_of_the_node_but_errors_and_what_carries_it_the_signing(module: str) -> None:
    allowed = {"app.errors"} | ({"app.signing"} if module == "app.mesh.transport" else set())
    assert not {name for name in imports(module) if not within(name, "app.mesh")} - allowed


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "app.cli")])
def test_the_command_imports_nothing_of_the_node_but_its_configuration(module: str) -> None:
    allowed = {"app", "app.errors"}
    assert not {name for name in imports(module) if not within(name, "app.cli") and not within(name, "app.config")} - allowed


@cache
def reach(module: str) -> frozenset[str]:
    """Every module that ``module`` imports, directly or not."""
    seen, waiting = set[str](), [module]
    while waiting:
        for name in imports(waiting.pop()) & set(MODULES):
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return frozenset(seen)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_itself_by_way_of_others(module: str) -> None:
    assert module not in reach(module)


def _uses(module: str) -> Iterator[str]:
    """What only a process's own module may do, as it stands in the source."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{node.value.id}.{node.attr}"
            if dotted in {"os.environ", "os.getenv", "os.environb", "sys.exit", "sys.argv", "os._exit", "logging.basicConfig"}:
                yield f"{dotted} in line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "sys"}:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name in {"environ", "getenv", "exit"})
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"exit", "quit", "print", "input"}:
            yield f"{node.func.id}() in line {node.lineno}"


@pytest.mark.parametrize("module", [name for name in MODULES if name not in PROGRAMS])
def test_only_a_process_reads_its_environment_exits_or_prints(module: str) -> None:
    allowed = {"logging.basicConfig"} if module == "app.log" else set[str]()  # called by __main__ alone, as the next test says
    assert not [use for use in _uses(module) if use.split()[0] not in allowed]


def test_logging_is_set_up_by_main_alone() -> None:
    assert [name for name in MODULES if "app.log" in imports(name)] == ["app.__main__"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    if tree(module).body:
        told = ast.get_docstring(tree(module))
        assert told, f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_does_no_work(module: str) -> None:
    """At module level: imports, definitions, values and tables of them; nothing that could fail, wait or act on the world."""
    for node in tree(module).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue
        worked = isinstance(node, ast.While | ast.With | ast.Try) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
        )
        assert not worked, f"{module}, line {node.lineno}: {ast.unparse(node)[:80]}"
