"""Every metric of every role, frozen in metrics.golden; and what is built on their names: the reference, the dashboard, the alerts.

A name, a label or a help text that changes breaks somebody's dashboard. Where that is meant, write the file anew and tell of it in the
changelog: python -m tests.services.observability.test_catalogue
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from app.config import load
from app.node import Node

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("metrics.golden")
ROLES = ("full", "mesh-gateway", "mesh-worker", "mesh-inference")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())


def metrics_of(role: str, folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, labels, help) of each metric of a node of that role which is the node's own."""
    node = Node(load({"ASTROMESH_PROFILE": role, "ASTROMESH_DATA_DIR": str(folder), "ASTROMESH_NODE_NAME": "test"}))
    for collector in list(node._registry._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            yield collector._name, str(collector._type), ", ".join(collector._labelnames), collector._documentation
        else:
            yield from ((family.name, family.type, "", family.documentation) for family in collector.collect())


def catalogue() -> str:
    """One line for each metric: its name and labels, its type, the roles that have it, its help."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for role in ROLES:
            for metric in metrics_of(role, Path(folder)):
                found.setdefault(metric, []).append(role.removeprefix("mesh-"))
    rows = [f"{name}{{{labels}}} | {kind} | {' '.join(roles)} | {text}" for (name, kind, labels, text), roles in sorted(found.items())]
    return "\n".join(rows) + "\n"


async def test_the_metrics_are_what_they_were() -> None:
    assert catalogue() == GOLDEN.read_text(), __doc__


def known() -> Mapping[str, set[str]]:
    """The names of all series, each with its labels."""
    series: dict[str, set[str]] = {"up": {"job", "instance"}, "process_resident_memory_bytes": set()}
    for line in GOLDEN.read_text().splitlines():
        head, kind, *_ = line.split(" | ")
        name, _, labels = head.removesuffix("}").partition("{")
        for suffix in SUFFIXES[kind]:
            own = {"le"} if suffix == "_bucket" else set[str]()
            series[name + suffix] = own | set(filter(None, labels.split(", ")))
    return series


def expressions() -> Iterator[tuple[str, str]]:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_a_dashboard_or_an_alert_speaks_only_of_series_and_labels_that_there_are(title: str, expression: str) -> None:
    series = known()
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    used = set(re.findall(r"(?<![\w$])[a-z][a-z0-9_]+", bare)) & set(series)
    assert used, f"{title} speaks of no series of ours: {expression}"
    labels = {"instance", "job"}.union(*(series[name] for name in used))
    told = set(re.findall(r"([a-z_]+)(?:=~|!~|=|!=)", bare))
    told |= {label.strip() for by in re.findall(r"by \(([^)]*)\)", bare) for label in by.split(",")}
    assert told <= labels, f"{title}: {told - labels}"
    unknown = set(re.findall(r"\b(?:astromesh|gen_ai)_[a-z_]+", bare)) - set(series) - labels
    assert not unknown, f"{title}: {unknown}"


@pytest.mark.parametrize("rule", [rule for group in ALERTS["groups"] for rule in group["rules"]], ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_it_is_about_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["runbook"].split()) > 8


def test_every_metric_is_in_the_reference() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for line in GOLDEN.read_text().splitlines():
        head, kind, _, _ = line.split(" | ")
        name, _, labels = head.removesuffix("}").partition("{")
        shown = name + ("_total" if kind == "counter" else "")
        row = next((row for row in documented.splitlines() if row.startswith(f"| `{shown}` |")), None)
        assert row, f"{shown} is not in docs/metrics.md"
        assert all(f"`{label}`" in row for label in filter(None, labels.split(", "))), f"{shown} lacks a label in docs/metrics.md"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool; install the package prometheus")
@pytest.mark.parametrize(
    "command", [("check", "rules", "alerts.yaml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yaml")]
)
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(command: tuple[str, ...]) -> None:
    done = subprocess.run(("promtool", *command), cwd=ROOT / "deploy" / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool; install the package prometheus")
def test_prometheus_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    filled = [expression.replace("$__rate_interval", "1m").replace("$instance", ".*") for _, expression in expressions()]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(filled)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(("promtool", "check", "rules", path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_of_the_dashboard_have_ids_places_and_variables_that_there_are() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(place["x"] + x, place["y"] + y) for place in places for x in range(place["w"]) for y in range(place["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD))) <= variables
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}


if __name__ == "__main__":
    GOLDEN.write_text(catalogue())
