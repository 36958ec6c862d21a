"""The calculator agrees with Python, refuses with the tool's own error only, and never takes long."""

import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.tools.builtin.arithmetic import evaluate
from app.services.tools.builtin.calculator import Calculator
from app.services.tools.tool import ToolError

whole = st.integers(0, 10**12).map(str)
expressions = st.recursive(
    whole,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", " - ", " * "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        st.tuples(inner, st.integers(0, 3)).map(lambda pair: f"({pair[0]})**{pair[1]}"),
    ),
    max_leaves=12,
)


def value_or_reason(expression: str) -> Fraction | str:
    """Whatever else it raises fails the test."""
    try:
        return evaluate(expression)
    except ToolError as error:
        return str(error)


async def calculate(expression: str) -> Any:
    return (await Calculator().run({"expression": expression}))["result"]


@settings(deadline=None)
@given(expressions)
def test_it_agrees_with_pythons_exact_arithmetic(expression: str) -> None:
    exact = re.sub(r"\d+", lambda number: f"F({number[0]})", expression)
    try:
        expected = eval(exact, {"F": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolError):
            evaluate(expression)
        return
    found = value_or_reason(expression)
    assert found == expected or (isinstance(found, str) and re.search("1000 digits|nested more than|more than 1000;", found))


@settings(deadline=1000)
@given(st.one_of(st.text(max_size=300), st.text(alphabet="0123456789.+-*/%^(), eEpisqrtlogmaxround", max_size=300)))
def test_whatever_the_text_there_is_a_number_or_a_tool_error(expression: str) -> None:
    assert value_or_reason(expression) != ""


NESTED_ROOT = "sqrt(" * 40 + "2" + ")" * 40


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9^9^9^9",
        "(-1)**9**9**9",
        "2**-9**9",
        "1e999999999",
        "1e-1000*1e-1000",
        "*".join(["9" * 90] * 10),
        "+".join(f"1/{number}" for number in range(10**5 + 1, 10**5 + 120)),
        "exp(exp(exp(9)))",
        "round(1/3, 10**9)",
        "round(10**900+1/3, 400)",
        "(" * 400 + "1" + ")" * 400,
        "-" * 999 + "1",
        "1" * 100_000,
        "max(" + ",".join("9**900" for _ in range(100)) + ")",
        NESTED_ROOT,
        "7**1180 % (3**2090 / 11) // 10**-990",
    ],
)
def test_no_expression_takes_long(expression: str) -> None:
    begun = time.perf_counter()
    value_or_reason(expression)
    assert time.perf_counter() - begun < 0.5


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("17*23", 391),
        ("0.1+0.2", 0.3),
        ("1/3*3", 1),
        ("10/4", 2.5),
        ("10/5", 2),
        ("-2**2", -4),
        ("2**3**2", 512),
        ("2^10", 1024),
        ("2**-1", 0.5),
        ("7//-2", -4),
        ("-7 % 3", 2),
        (".5 + 1.", 1.5),
        ("1.5e3", 1500),
        ("6 \u00d7 7 \u2212 2 \u00f7 2", 41),
        ("sqrt(16) + SQRT(2.25)", 5.5),
        ("abs(-3) + max(1, 5, 2) - min(4, 3)", 5),
        ("round(2.5) + round(-2.5)", 0),
        ("round(2.675, 2)", 2.68),
        ("round(1234, -2)", 1200),
        ("ceil(1.2) + floor(1.8)", 3),
        ("log(1000, 10) + log10(10**400) + log2(8)", 406),
        ("log(e) + ln(exp(2))", 3),
        ("sin(0) + cos(0) + tan(0) + asin(0) + atan(0)", 1),
        ("2*pi", 6.283185307179586),
        ("2**100", 2**100),
        ("10**400", 10**400),
    ],
)
async def test_it_computes(expression: str, result: float) -> None:
    found = await calculate(expression)
    assert found == result
    assert isinstance(found, type(result))


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("1/0", "Division by zero"),
        ("5 % (2-2)", "Division by zero"),
        ("0**-1", "Division by zero"),
        ("9**9**9", "more than 1000 digits"),
        ("", "The end of the expression stands where a number is wanted"),
        ("2*(3", "The end of the expression stands where `)` is wanted"),
        ("3 4", "`4` at character 3 does not belong there"),
        ("2 & 3", "'&' means nothing in arithmetic"),
        ("squrt(4)", "`squrt` at character 1 is not known; did you mean `sqrt`?"),
        ("__import__('os')", "`__import__` at character 1 is not known"),
        ("sqrt 4", "`sqrt` is a function; write sqrt"),
        ("sqrt(1, 2)", "`sqrt` takes 1 values, and 2 are given"),
        ("sqrt(-1)", "sqrt(-1) is not a real number"),
        ("(-8)**0.5", "not a real number"),
        ("log(0)", "log(0) is not a real number"),
        ("exp(1000)", "too large"),
        ("10**400 + 0.5", "above 1.8e308 and not whole"),
        ("2**-1500", "nearer to zero"),
        ("round(1, 0.5)", "whole number of places"),
    ],
)
async def test_what_has_no_result_is_told_with_its_reason(expression: str, told: str) -> None:
    with pytest.raises(ToolError, match=re.escape(told)):
        await calculate(expression)
