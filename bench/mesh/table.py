"""The table of bench/README.md: each figure of ours next to its rivals', and what the aims say."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.report import Figure, figures_table

RIVALS = ("serf", "kinship")
Rounds = Sequence[Mapping[str, Any]]
Take = Callable[[Mapping[str, Any]], float]


def of(rounds: Rounds, starts: Rounds, busy: Mapping[str, Any], absent: Mapping[str, str]) -> str:
    """``starts`` are further starts, of which nothing else was measured."""
    figures = [*_together((*rounds, *starts)), *_losses(rounds), *_costs(rounds), *_busy(busy)]
    notes = [f"Not measured: {kind}, because {why}." for kind, why in absent.items()]
    return "\n\n".join((figures_table(figures), *notes))


def _together(rounds: Rounds) -> list[Figure]:
    return [
        *_compared("all views complete after the last one listens", rounds, lambda side: side["listening_s"], "s", "< 1 s", 1.0),
        *_compared("the same, since the first process was started", rounds, lambda side: side["complete_s"], "s"),
    ]


def _losses(rounds: Rounds) -> list[Figure]:
    ours = [each["ours"] for each in rounds]
    asked, failures = sum(side["asked"] for side in ours), [text for side in ours for text in side["failures"]]
    forwarding = [loss["forwarding_s"] for side in ours for loss in side["pauses"] if loss["forwarding_s"] is not None]
    unconfirmed = sum(not loss["confirmed"] for each in rounds for side in each.values() for loss in (*side["kills"], *side["pauses"]))
    figures = [
        *_lost("kill -9: out of use at all the others", rounds, "kills", "< 4 s", 4.0),
        *_lost("paused: out of use at all the others", rounds, "pauses", "< 8 s", 8.0),
        Figure("paused: the last request that waited for it began", f"after {max(forwarding):.1f} s" if forwarding else "none waited"),
        *_compared("paused: after it goes on, in use again everywhere", rounds, _mean_back, "s"),
        Figure(
            "chat completions that failed, of those asked meanwhile",
            f"{len(failures)} of {asked}" + (f" ({failures[0][:80]})" if failures else ""),
            aim="none", met=not failures,
        ),
        Figure("the slowest of them", f"{max(side['slowest_s'] for side in ours):.1f} s"),
    ]  # fmt: skip
    if unconfirmed:
        figures.append(Figure("losses that a member logged and still showed as up", str(unconfirmed), aim="none", met=False))
    return figures


def _mean_back(side: Mapping[str, Any]) -> float:
    return statistics.fmean(loss["back_s"] or float("inf") for loss in side["pauses"])


def _costs(rounds: Rounds) -> list[Figure]:
    cpu: Take = lambda side: side["cpu_percent"]  # noqa: E731
    sent: Take = lambda side: side["bytes_per_s"]  # noqa: E731
    return [
        *_compared("idle: CPU per member", rounds, cpu, "% of a core", "within 3 times serf's", 3.0, times="serf"),
        *_compared(
            "idle, with a mesh key: CPU per member", rounds, cpu, "% of a core", "within 3 times serf's", 3.0, times="serf", ours="signed"
        ),
        *_compared("idle: bytes per member and second on lo", rounds, sent, "B", "< 2800 B", 2_800.0),
        *_compared("idle, with a mesh key: bytes", rounds, sent, "B", "< 2800 B", 2_800.0, ours="signed"),
    ]


def _busy(busy: Mapping[str, Any]) -> list[Figure]:
    ours = busy["ours"]["busy"]
    skipped = int(ours.get("skipped_healthy", 0))
    said = {kind: f"{side['busy']['suspect']} and {side['busy']['dead']}" for kind, side in busy.items()}
    refuted = f"{int(ours.get('refutations', 0))} refutations"
    figures = [
        Figure("busy cores: healthy members skipped by placement", str(skipped), aim="none", met=not skipped),
        Figure("busy cores: chat completions failed", f"{len(busy['ours']['failures'])} of {busy['ours']['asked']}"),
    ]
    name = "busy cores: healthy members called suspect, and dead, in all views"
    rivals = ", ".join(f"{kind} {said[kind]}" for kind in RIVALS if kind in said)
    return [*figures, Figure(name, f"{said['ours']}; {refuted}", rivals)]


def _lost(name: str, rounds: Rounds, which: str, aim: str, limit: float) -> list[Figure]:
    """The last member of all to notice decides."""
    every = {kind: [loss for each in rounds if kind in each for loss in each[kind][which]] for kind in ("ours", *RIVALS)}
    told = {kind: _spread([loss["last_s"] for loss in losses], "s") for kind, losses in every.items() if losses}
    worst = {kind: max(loss["last_s"] for loss in losses) for kind, losses in every.items() if losses}
    figures = list[Figure]()
    for kind in [kind for kind in RIVALS if kind in told] or [""]:
        met = worst["ours"] < limit
        ratio = _ratio(_median(every["ours"]), _median(every[kind])) if kind else ""
        figures.append(Figure(name, told["ours"], f"{kind} {told[kind]}" if kind else "", ratio, *((aim, met) if not figures else ())))
    return figures


def _median(losses: Sequence[Mapping[str, Any]]) -> float:
    return float(statistics.median(loss["last_s"] for loss in losses))


def _compared(
    name: str, rounds: Rounds, take: Take, unit: str, aim: str = "", limit: float = 0.0, *, times: str = "", ours: str = "ours"
) -> list[Figure]:
    """One row for each rival: medians over the rounds, and the median of the ratios within a round. ``limit`` is on the worst of ours, or
    on the ratio to the rival named by ``times``."""
    values = {kind: [take(each[kind]) for each in rounds if kind in each] for kind in (ours, *RIVALS)}
    figures = list[Figure]()
    for kind in [kind for kind in RIVALS if values[kind]] or [""]:
        ratio = (
            statistics.median(mine / other if other else float("inf") for mine, other in zip(values[ours], values[kind], strict=True))
            if kind
            else 0.0
        )
        judged = bool(aim) and (kind == times if times else not figures)
        verdict = (aim, (ratio if times else max(values[ours])) < limit) if judged else ("", None)
        rival = f"{kind} {_spread(values[kind], unit)}" if kind else ""
        figures.append(Figure(name, _spread(values[ours], unit), rival, f"{ratio:.2f}" if kind else "", *verdict))
    return figures


def _ratio(mine: float, other: float) -> str:
    return f"{mine / other:.2f}" if other else ""


def _spread(values: Sequence[float], unit: str) -> str:
    shown = ".0f" if unit == "B" else ".2f" if unit == "s" else ".3f"
    least, most = min(values), max(values)
    told = f"{statistics.median(values):{shown}} {unit}"
    return f"{told} ({least:{shown}} to {most:{shown}})" if len(values) > 1 else told
