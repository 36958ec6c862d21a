"""Tables in Markdown, and the place in bench/README.md where they go."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

README = Path(__file__).parent / "README.md"
_BEGIN, _END = "<!-- figures: written by `{by}` -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the main table. ``met`` is None where there is no aim."""

    name: str
    ours: str
    rival: str = ""
    ratio: str = ""
    aim: str = ""
    met: bool | None = None

    def row(self) -> tuple[str, ...]:
        verdict = "" if self.met is None else ", met" if self.met else ", **missed**"
        return (self.name, self.ours, self.rival, self.ratio, self.aim + verdict)


def figures_table(figures: Sequence[Figure]) -> str:
    return table(("figure", "Astromesh", "rival", "ratio", "aim"), [figure.row() for figure in figures])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances(seconds: float) -> str:
    """When and where the figures were measured."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[0]
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, on {len(os.sched_getaffinity(0))} cores ({processor}) of a shared machine, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}, in {seconds:.0f} s; "
        f"the load average was {load:.1f} in the end."
    )


def write(text: str, by: str = "make bench") -> None:
    """Put the text between the README's markers of the command that wrote it."""
    begin = _BEGIN.format(by=by)
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(_END)
    if not after:
        raise RuntimeError(f"{README} has lost its markers: {begin} … {_END}")
    README.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{after}")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
