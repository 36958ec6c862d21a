"""The schema, the dataclasses and the reference documentation name the same fields, with the same defaults."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from app.config.limits import NO_LIMITS, Limit, Limits
from app.config.profile import ApiSettings, MeshSettings, ObservabilitySettings, PeerSettings
from app.config.settings import VARIABLES
from app.services import SERVICE_NAMES, SERVICES
from app.tracing import TraceSettings

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "app" / "config" / "profile.schema.json").read_text())
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """The table below a heading: the first column's name to the second column."""
    part = re.split(r"^#+ ", REFERENCE.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1].strip("`") for row in cells}


def test_the_reference_has_every_variable_and_no_other() -> None:
    assert list(rows("## Environment")) == list(VARIABLES)


@pytest.mark.parametrize(("section", "kind", "others"), [("api", ApiSettings, set()), ("mesh", MeshSettings, {"enabled"})])
def test_schema_dataclass_and_reference_agree(section: str, kind: Any, others: set[str]) -> None:
    documented = rows(f"### spec.{section}")
    known = {field.name: field.default for field in fields(kind)}
    assert set(SCHEMA["$defs"][section]["properties"]) == set(known) | others == set(documented)
    for name, default in known.items():
        if default not in ("", (), NO_LIMITS):
            assert documented[name] == (f"{default:g}" if isinstance(default, float) else str(default))


def test_the_limits_of_clients_agree() -> None:
    assert set(SCHEMA["$defs"]["api"]["properties"]["limits"]["properties"]) == {field.name for field in fields(Limits)}
    assert set(SCHEMA["$defs"]["limit"]["properties"]) == {field.name for field in fields(Limit)} == set(rows("### spec.api.limits"))


def test_the_peers_fields_agree() -> None:
    assert set(SCHEMA["$defs"]["peer"]["properties"]) == {field.name for field in fields(PeerSettings)} == set(rows("### spec.peers"))


def test_the_services_are_the_same_everywhere() -> None:
    services = SCHEMA["$defs"]["services"]
    assert services["required"] == list(services["properties"]) == list(SERVICE_NAMES)
    forwarded = [name for name, entry in SERVICES.items() if entry.forwarded]
    assert SCHEMA["$defs"]["peer"]["properties"]["services"]["items"]["enum"] == forwarded
    assert set(SERVICES) <= set(SCHEMA["properties"]["spec"]["properties"])


def test_the_defaults_of_agents_agree() -> None:
    documented = {name.removeprefix("orchestration.") for name in rows("### spec.defaults")}
    assert documented == set(SCHEMA["$defs"]["defaults"]["properties"]["orchestration"]["properties"])


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every schema of a mapping inside a schema."""
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    inner = [found for each in schema.values() for found in objects(each)]
    return [schema, *inner] if "properties" in schema and schema.get("type") == "object" else inner


def test_no_mapping_of_a_profile_takes_unknown_fields() -> None:
    found = objects(SCHEMA)
    assert len(found) == 11
    assert all(schema["additionalProperties"] is False for schema in found)


@pytest.mark.parametrize("service", ["agents", "inference", "memory", "tools", "channels", "rag"])
def test_every_setting_of_a_service_is_described_and_has_one_default(service: str) -> None:
    package = ROOT / "app" / "services" / service
    schema = json.loads((package / "schema.json").read_text())["configuration"]["properties"]
    page = (ROOT / "docs" / f"{service}.md").read_text()
    for name in set(schema) - {"agent_files", "defaults"}:  # those two only the node itself gives
        assert f"| `{name}` |" in page
    assert not [name for name, each in schema.items() if "default" in each]  # defaults are the dataclass's alone


def test_every_setting_of_observability_is_described_with_its_default() -> None:
    schema = json.loads((ROOT / "app/services/observability/schema.json").read_text())["configuration"]["properties"]
    known = {field.name: field.default for field in fields(ObservabilitySettings) if field.name != "traces"}
    traces = {f"traces.{field.name}": field.default for field in fields(TraceSettings)}
    assert set(known) | {"traces"} == set(schema)
    assert {name.removeprefix("traces.") for name in traces} == set(schema["traces"]["properties"])
    table = re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|", (ROOT / "docs/traces.md").read_text(), re.MULTILINE)
    assert table == [(name, str(default).lower()) for name, default in (known | traces).items()]
