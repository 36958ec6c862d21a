"""`metrics`: the node's figures."""

import math
from typing import Any

import click

from app.cli.invocation import Asked, asks_node
from app.cli.output import note, show, show_json
from app.cli.text import table

_STATISTICS = ("count", "avg", "min", "max")


@click.command()
@click.argument("part", default="")
@asks_node
def metrics(asked: Asked, part: str) -> None:
    """The node's figures since its start.

    With PART, those that have it in their name. Prometheus reads the same at /metrics.
    """
    body = asked.node.get("/v1/metrics").body
    chosen = {
        kind: {name: value for name, value in series.items() if part in name} for kind, series in body.items() if isinstance(series, dict)
    }
    if asked.as_json:
        show_json(chosen)
        return
    told = list[str]()
    for kind, series in chosen.items():
        if kind == "histograms":
            rows = [(name, *(_number(each.get(field)) for field in _STATISTICS)) for name, each in series.items() if isinstance(each, dict)]
            head = ("HISTOGRAM", *(field.upper() for field in _STATISTICS))
        else:
            rows, head = [(name, _number(value)) for name, value in series.items()], (kind.removesuffix("s").upper(), "VALUE")
        if rows:
            told.append(table(head, rows))
    if told:
        show("\n\n".join(told))
    else:
        note(f"There is no figure with {part!r} in its name." if part else "The node has counted nothing yet.")


def _number(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return str(value)
