"""The Jinja2 that prompts are written in. A template of it ends soon and stays small, whatever it says and whatever callers send.

Each step of a loop and each value that is made is drawn from one Budget for the render. What cannot be paid for beforehand (macros,
recursion, formats, filters and methods that pad) is not there, and a template with it is refused when it is read.
"""

import json
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from functools import cache
from itertools import islice
from typing import Any

from jinja2 import Template, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import htmlsafe_json_dumps
from jinja2.visitor import NodeTransformer

from app.config.yaml import nearest

BUDGET = " budget"
"""The Budget's place among a render's variables; no template can write that name, nor those of the two filters below."""
_COUNTED, _PAID = " counted", " paid"
_EFFORT = 1_000_000
_STEP = 10
_CPU_S = 1.0
_BITS = 4096
_INDENT = 16
_DIGITS = 15
_LAZY = (Iterator, KeysView, ValuesView, ItemsView)
_FILTERS = (
    *(
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "groupby",
        "int",
        "items",
        "last",
        "length",
    ),
    *("list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "string", "title"),
    *("trim", "truncate", "unique", "upper", "urlencode", "wordcount"),
)
_METHODS = (
    *("capitalize", "changed", "count", "cycle", "endswith", "find", "get", "index", "isalpha", "isdigit", "items", "keys", "lower"),
    *("lstrip", "removeprefix", "removesuffix", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
    "values",
)
_QUICK_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.If, nodes.CondExpr),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Filter),
)
_QUICK_FILTERS = frozenset({"capitalize", "count", "d", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper"})
_OPERATIONS = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
_ALLOWED = (
    *(*_QUICK_NODES, *_OPERATIONS, nodes.For, nodes.Assign, nodes.With, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Slice),
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Call, nodes.Keyword),
)
_PAYING = (nodes.Call, nodes.Filter, nodes.List, nodes.Tuple, nodes.Dict, nodes.Concat, nodes.Add, nodes.Mul)
_STATEMENTS = {"CallBlock": "call", "FilterBlock": "filter", "AssignBlock": "set with a body", "FromImport": "from", "NSRef": "namespace"}


class Budget:
    """What one render may still do: characters, items and steps to make, and time of its thread (others' work does not count)."""

    def __init__(self) -> None:
        self.left = _EFFORT
        self._end = time.thread_time() + _CPU_S

    def draw(self, effort: int) -> None:
        """Raises SecurityError when it is used up."""
        self.left -= max(effort, 0)
        if self.left < 0:
            raise SecurityError("it repeats or makes too much; loop over less, and make smaller values")
        if time.thread_time() > self._end:
            raise SecurityError(f"it takes more than {_CPU_S:g} s")

    def paid(self, value: Any) -> Any:
        """The value, drawn; a lazy one as a list."""
        value = list(islice(value, self.left + 1)) if isinstance(value, _LAZY) else value
        self.draw(_weight(value, self.left))
        return value


def compile_prompt(source: str) -> tuple[Template, bool]:
    """The template, and whether rendering it is quick. Raises TemplateSyntaxError, with the line within the text."""
    environment = _environment()
    try:
        tree = environment.parse(source)
        quick = all(_is_quick(node) for node in tree.find_all(nodes.Node))
        return environment.from_string(_Bounding().visit(tree)), quick
    except (RecursionError, SyntaxError, MemoryError):  # of Jinja2's parser, or of Python on what Jinja2 has made of it
        raise TemplateSyntaxError("it is nested too deeply", 1) from None


def filters() -> tuple[str, ...]:
    """The names of the filters that templates may use."""
    return tuple(name for name in _environment().filters if name.isalpha())


def variables_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a template is rendered with: a fresh Budget, and functions that no variable can take the place of."""
    return {**variables, **_environment().globals, BUDGET: Budget()}


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})  # all of them, so that none is worked out at load

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for number in (left, right):
            if isinstance(number, int) and number.bit_length() > _BITS:
                raise SecurityError("a number is too large")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("`%` formats no text here; join texts with `~`")
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _BITS:
            raise SecurityError(f"{right} is too large an exponent")
        if operator == "*":
            context[BUDGET].draw(_repeated(left, right) or _repeated(right, left))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and (attr in _METHODS or not callable(value))

    def wrap_str_format(self, value: Any) -> None:
        """There is no str.format: a width in a format makes a text of any size."""


class _Bounding(NodeTransformer):
    """Refuses what is not allowed, and has loops counted and values paid for."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if not isinstance(node, _ALLOWED):
            kind = type(node).__name__
            told = f"`{_STATEMENTS.get(kind, kind.lower())}` has no place in a prompt; there is for, if, set and with"
            raise TemplateSyntaxError(told, node.lineno)
        super().generic_visit(node, *args, **kwargs)
        is_target = isinstance(node, nodes.Tuple) and node.ctx == "store"
        return _filtered(node, _PAID) if isinstance(node, _PAYING) and not is_target else node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2's names, here and below
        if node.recursive:
            raise TemplateSyntaxError("a loop cannot be recursive in a prompt", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        called = node.node
        if isinstance(called, nodes.Name) and called.name not in _environment().globals:
            raise TemplateSyntaxError(f"there is no function `{called.name}` in a prompt, only range", node.lineno)
        if isinstance(called, nodes.Getattr) and called.attr not in _METHODS:
            told = f"there is no method `{called.attr}` in a prompt; try a filter, or: {nearest(called.attr, _METHODS)}"
            raise TemplateSyntaxError(told, node.lineno)
        return self.generic_visit(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        if node.name not in _environment().filters:
            raise TemplateSyntaxError(f"there is no filter `{node.name}` in a prompt; {nearest(node.name, filters())}", node.lineno)
        return self.generic_visit(node)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _is_quick(node: nodes.Node) -> bool:
    return isinstance(node, _QUICK_NODES) and (not isinstance(node, nodes.Filter) or node.name in _QUICK_FILTERS)


def _weight(value: Any, limit: int) -> int:
    """Characters and items of a value, what is in it twice twice; counted no further than ``limit``."""
    weight, waiting = 0, [value]
    while waiting and weight <= limit:
        each = waiting.pop()
        weight += 1
        if isinstance(each, str):
            weight += len(each)
        elif isinstance(each, Mapping):
            waiting += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            waiting += each
        elif not (each is None or isinstance(each, int | float | range | Undefined)):
            raise SecurityError(f"{type(each).__name__} is nothing that a prompt can keep")
    return weight


def _repeated(value: Any, count: Any) -> int:
    """What a text or list takes when it is repeated; 0 for other products."""
    return len(value) * count if isinstance(count, int) and isinstance(value, str | list | tuple) else 0


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    budget = context[BUDGET]
    for item in items:
        budget.draw(_STEP)
        yield item


@pass_context
def _paid(context: Context, value: Any) -> Any:
    return context[BUDGET].paid(value)


@pass_context
def _join(context: Context, value: Iterable[Any], d: Any = "", attribute: Any = None) -> Any:
    items = list(value)
    context[BUDGET].draw(len(str(d)) * len(items))
    return FILTERS["join"](context.eval_ctx, items, d, attribute)


@pass_context
def _replace(context: Context, s: Any, old: Any, new: Any, count: int | None = None) -> Any:
    context[BUDGET].draw(str(s).count(str(old)) * len(str(new)))
    return FILTERS["replace"](context.eval_ctx, str(s), str(old), str(new), count)


@pass_context
def _indent(context: Context, s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> Any:
    context[BUDGET].draw((len(str(s).splitlines()) + 1) * (width if isinstance(width, int) else len(width)))
    return FILTERS["indent"](s, width, first, blank)


@pass_context
def _tojson(context: Context, value: Any, indent: int | None = None) -> Any:
    """As Jinja2's, but piece by piece: what is nested grows by its indentation."""

    def pieces(found: Any) -> Iterator[str]:
        for piece in json.JSONEncoder(indent=indent, sort_keys=True).iterencode(found):
            context[BUDGET].draw(len(piece))
            yield piece

    if isinstance(indent, int) and indent > _INDENT:
        raise SecurityError(f"{indent} is too large an indentation")
    return htmlsafe_json_dumps(value, dumps=lambda found: "".join(pieces(found)))


def _round(value: Any, precision: int = 0, method: Any = "common") -> Any:
    if abs(precision) > _DIGITS:
        raise SecurityError(f"{precision} is too large a precision")
    return FILTERS["round"](value, precision, method)


@cache
def _environment() -> _Environment:
    """Without optimizing: what could be worked out at load would be worked out without a budget."""
    environment = _Environment(autoescape=False, keep_trailing_newline=False, cache_size=0, optimized=False)
    environment.globals = {"range": environment.globals["range"]}
    environment.filters = {name: FILTERS[name] for name in _FILTERS}
    environment.filters |= {"join": _join, "replace": _replace, "indent": _indent, "tojson": _tojson, "round": _round}
    environment.filters |= {_COUNTED: _counted, _PAID: _paid}
    return environment
