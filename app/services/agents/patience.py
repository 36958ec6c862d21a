"""Checks by the schemas that agents bring. Who makes an agent over HTTP need not be who runs the node, and a schema of a few lines can ask
for work without end, so one check has a bound."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.protocols import Validator
from referencing import Registry

CPU_S = 0.5
"""Seconds of its thread that one check may take: a megabyte of ordinary JSON takes 0.3."""
_END: ContextVar[float] = ContextVar("_END")


class TooLongError(Exception):
    """A check that would take longer than it may."""


def patient_validator(schema: Mapping[str, Any]) -> Validator:
    """A validator (JSON Schema 2020-12) that is bound within ``bounded`` and fetches no references. The schema has been checked."""
    made: Validator = _Patient(schema, registry=Registry())
    return made


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TooLongError where the checks of the block take too long. They cannot be interrupted within a regular expression."""
    token = _END.set(time.thread_time() + CPU_S)
    try:
        yield
    finally:
        _END.reset(token)


def _timed(rule: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        if time.thread_time() > _END.get():
            raise TooLongError(f"checking takes more than {CPU_S:g} s")
        return rule(*arguments)

    return timed


_RULES = {name: _timed(rule) for name, rule in Draft202012Validator.VALIDATORS.items()}
_Patient = validators.extend(Draft202012Validator, _RULES)  # type: ignore[no-untyped-call]
