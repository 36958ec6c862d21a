"""The tools that every node has; a new one is a file here and a line below."""

from collections.abc import Sequence

from app.services.tools.builtin.calculator import Calculator
from app.services.tools.builtin.datetime_now import DatetimeNow
from app.services.tools.tool import Tool


def builtin_tools() -> Sequence[Tool]:
    return [Calculator(), DatetimeNow()]
