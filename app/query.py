"""Numbers in a request's query, checked once for all routes that take some."""

import math

from starlette.requests import Request

from app.errors import BadRequest

_DIGITS = 9
"""Digits that a number without an upper bound may have."""


def number(request: Request, name: str, least: float, most: float) -> float | None:
    """The query's number from ``least`` to ``most``, None where it is left out. Raises BadRequest."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        value = float(given[:40])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise BadRequest(f"{name} is {given[:40]!r}; give a number from {least:g} to {most:g}, or leave it out.", param=name)
    return value


def whole_number(request: Request, name: str, most: int | None = None) -> int | None:
    """The query's number from 1 to ``most`` (None: any above 0), None where it is left out. Raises BadRequest."""
    given = request.query_params.get(name)
    if given is None:
        return None
    digits = len(str(most)) if most else _DIGITS
    if not (given.isascii() and given.isdigit() and len(given) <= digits and 0 < int(given) <= (most or int(given))):
        wanted = f"from 1 to {most}" if most else "above 0"
        raise BadRequest(f"{name} is {given[:40]!r}; give a whole number {wanted}, or leave it out.", param=name)
    return int(given)
