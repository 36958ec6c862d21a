"""Answers as data: what the model is told about their form, how its words are read, and what it is asked when they are not of that form.

The rule: what is given out as ``data`` is valid; an answer that stays invalid is an error and never passed off as one.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from app.body import json_path
from app.errors import OutputInvalid
from app.services.agents.patience import TooLongError, bounded, patient_validator

REPAIRS = 2
_TOLD = 5
_LARGE = 64 * 1024


class MisformedError(Exception):
    """An answer that is not of the form; the message says in what."""


class OutputSchema:
    """The form of an agent's answers: an object schema. ``check`` it first."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self._validator = patient_validator(schema)

    @staticmethod
    def check(schema: Mapping[str, Any]) -> None:
        """Raises ValueError for what is no schema, or refers to what is not in it."""
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is no JSON Schema: {error.message[:200]}") from None
        resolver = Registry().with_resource("urn:output", DRAFT202012.create_resource(schema)).resolver("urn:output")
        for reference in _references(schema):
            try:
                resolver.lookup(reference)
            except Unresolvable:
                raise ValueError(f"refers to {reference!r}, which is not in it") from None

    @property
    def instruction(self) -> str:
        text = json.dumps(self.schema, ensure_ascii=False)
        return f"Give your final answer as one JSON object that is valid by this JSON Schema, without any text around it: {text}"

    @property
    def response_format(self) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}}

    async def read(self, answer: str) -> dict[str, Any]:
        """The data in an answer. Raises MisformedError, or OutputInvalid where that cannot be said in time."""
        return await asyncio.to_thread(self._read, answer) if len(answer) > _LARGE else self._read(answer)

    async def settle(self, answer: str, ask: Callable[[str], Awaitable[str]]) -> dict[str, Any]:
        """The data in ``answer``, or in what ``ask`` gets when it tells the model what is wrong. Raises OutputInvalid."""
        for repairs in itertools.count():
            try:
                return await self.read(answer)
            except MisformedError as wrong:
                if repairs == REPAIRS:
                    told = f"The model's answer is not what spec.output_schema asks for, after {REPAIRS} repairs: {wrong}"
                    raise OutputInvalid(f"{told}; ask again, ask a stronger model, or make the schema simpler.") from None
                answer = await ask(f"Your answer cannot be used: {wrong}. {self.instruction}")
        raise AssertionError("unreachable")

    def _read(self, answer: str) -> dict[str, Any]:
        try:
            data = json.loads(_object_in(answer), parse_constant=_refuse)
            with bounded():
                errors = list(itertools.islice(self._validator.iter_errors(data), _TOLD))
        except TooLongError as error:
            raise OutputInvalid(f"The model's answer cannot be checked by spec.output_schema: {error}; make the schema simpler.") from None
        except RecursionError:
            raise MisformedError("it is nested too deeply") from None
        except ValueError as error:
            raise MisformedError(f"it is not JSON ({error})") from None
        if errors:
            raise MisformedError("; ".join(f"{json_path(error.absolute_path)}: {error.message[:200]}" for error in errors))
        if not isinstance(data, dict):
            raise MisformedError("it is no JSON object")
        return data


def _object_in(answer: str) -> str:
    """The JSON in an answer: models put it into fences, or a sentence before it."""
    start, end = answer.find("{"), answer.rfind("}")
    return answer[start : end + 1] if 0 <= start < end else answer


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from (schema[key] for key in ("$ref", "$dynamicRef") if isinstance(schema.get(key), str))
    for inner in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ():
        yield from _references(inner)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
