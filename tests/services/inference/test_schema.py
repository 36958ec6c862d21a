import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from app.body import validator
from app.services.inference.configuration import Configuration, configure
from tests.services.inference.fakes import SCHEMA

DOCUMENT = (Path(__file__).parents[3] / "docs" / "inference.md").read_text("utf-8")


def section(title: str) -> str:
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    cells = [
        [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.split("\n") if line.startswith("| `")
    ]
    return {first: rest for first, *rest in cells}


def default_of(name: str) -> str:
    found: Any = next(field.default for field in fields(Configuration) if field.name == name)
    assert found is not MISSING
    return {False: "false", (): "[]"}.get(found) or f"{found:g}"


def test_schema_dataclass_and_documentation_name_the_same_settings_and_defaults() -> None:
    names = {field.name for field in fields(Configuration)}
    assert set(SCHEMA["configuration"]["properties"]) == names
    names.remove("agent_files")  # which the node sets, not a profile
    documented = rows(section("spec.inference"))
    assert set(documented) == names
    assert {name: cells[0] for name, cells in documented.items()} == {name: default_of(name) for name in names}


def test_the_providers_files_fields_are_all_documented() -> None:
    spec = SCHEMA["providers_file"]["properties"]["spec"]["properties"]
    routing = spec["routing"]["properties"]
    wanted = {*spec["providers"]["additionalProperties"]["properties"], *routing}
    wanted |= {f"circuit_breaker.{name}" for name in routing["circuit_breaker"]["properties"]}
    assert set(rows(section("providers.yaml"))) == wanted - {"circuit_breaker"}


def test_every_schema_is_one() -> None:
    for schema in (SCHEMA["configuration"], SCHEMA["providers_file"], *SCHEMA["requests"].values()):
        validator(schema)


def test_a_section_is_read_over_the_defaults() -> None:
    assert configure({}) == Configuration()
    assert configure({"idle_timeout_s": 3, "fallbacks": ["a"]}) == Configuration(idle_timeout_s=3, fallbacks=("a",))
