"""How busy this machine is, read from the kernel; zeros where it tells nothing (/proc is Linux's)."""

import os
from pathlib import Path

_PROC = Path("/proc")


class MachineLoad:
    """Percent of CPU since the last call, and of memory now, over the whole machine."""

    def __init__(self) -> None:
        self._last = self._ticks()

    def cpu_percent(self) -> int:
        busy, total = self._ticks()
        was_busy, was_total = self._last
        self._last = busy, total
        return round(100 * (busy - was_busy) / (total - was_total)) if total > was_total else 0

    @staticmethod
    def memory_percent() -> int:
        try:
            rows = (line.split() for line in (_PROC / "meminfo").read_text().splitlines()[:5])
            kib = {row[0]: int(row[1]) for row in rows}
            return round(100 * (1 - kib["MemAvailable:"] / kib["MemTotal:"]))
        except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError):
            return 0

    @staticmethod
    def _ticks() -> tuple[int, int]:
        """(busy, all) clock ticks of all processors since the boot."""
        try:
            ticks = [int(each) for each in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            times = os.times()
            return 0, round(100 * times.elapsed)
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle and waiting for disks
