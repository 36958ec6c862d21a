"""What prompts may say, and that none of them costs more than a little, whatever it says."""

import asyncio
import re
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateSyntaxError

from app.errors import AgentUnavailable, NodeError
from app.services.agents.prompt import Prompt
from app.services.agents.sandbox import filters

CONTEXT: Mapping[str, Any] = MappingProxyType({"tools": ["a", "b"], "context": {"n": 3, "deep": {"k": ["v"]}}, "user": "Ann Lee"})


async def rendered(source: str, variables: Mapping[str, Any] = CONTEXT, max_chars: int = 1000) -> str:
    return await Prompt(source).render(variables, max_chars, "agent 'x'")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for t in tools if t %}{{ loop.index }}/{{ loop.length }} {{ t }}{{ ', ' if not loop.last }}{% endfor %}", "1/2 a, 2/2 b"),
        ("{% for key, value in context.items() %}{{ key }};{% else %}none{% endfor %}", "n;deep;"),
        ("{% for each in [] %}{% else %}none{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}", "none012"),
        ("{% set a, b = tools %}{{ b ~ a ~ 1 }}{% with c = [a, (b, 1)] %}{{ c[1][0] }}{% endwith %}", "ba1b"),
        ("{{ tools | map('upper') | join('+') }} {{ tools | reverse | list }} {{ tools | length }}", "A+B ['b', 'a'] 2"),
        (
            "{{ user.lower().split()[0] }} {{ user | replace('Ann', 'Bea') }} {{ user[:3] }} {{ user.startswith('A') }}",
            "ann Bea Lee Ann True",
        ),
        ("{{ context.deep | tojson }} {{ {'a': 1} | tojson(indent=1) }}", '{"k": ["v"]} {\n "a": 1\n}'),
        ("{{ 'a\nb' | indent(2) }} {{ 2.345 | round(1) }} {{ 7 % 3 + 2 ** 3 * 2 - 1 // 1 }} {{ 'x' * 3 }}", "a\n  b 2.3 16 xxx"),
        ("{{ missing | default('none') }}{% if user is defined and 'a' in tools %}!{% endif %}{{ -1 | abs }}", "none!1"),
        ("{% raw %}{{ x }}{% endraw %}{# told to nobody #}", "{{ x }}"),
    ],
)
async def test_what_prompts_need_is_there(source: str, text: str) -> None:
    assert await rendered(source) == text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("\n{% macro f() %}{% endmacro %}", "`macro` has no place"),
        ("\n{% call f() %}{% endcall %}", "`call` has no place"),
        ("\n{% filter upper %}{% endfilter %}", "`filter` has no place"),
        ("\n{% set x %}{% endset %}", "`set with a body` has no place"),
        ("\n{% block x %}{% endblock %}", "`block` has no place"),
        ("\n{% include 'x' %}", "`include` has no place"),
        ("\n{% for x in [1] recursive %}{% endfor %}", "cannot be recursive"),
        ("\n{{ lipsum(100000) }}", "no function `lipsum`"),
        ("\n{{ 'x' | centre(9) }}", "no filter `centre`"),
        ("\n{{ 'x' | uper }}", "no filter `uper` in a prompt; did you mean `upper`?"),
        ("\n{{ 'x'.format(9) }}", "no method `format`"),
        ("\n{{ 'x'.uper() }}", "did you mean `upper`?"),
    ],
)
def test_what_they_may_not_say_is_refused_when_it_is_read(source: str, said: str) -> None:
    with pytest.raises(TemplateSyntaxError) as caught:
        Prompt(source)
    assert said in str(caught.value.message)
    assert caught.value.lineno == 2


@pytest.mark.parametrize("source", ["{{ " + "(" * 5000 + ")" * 5000 + " }}", "{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "{{ -" * 9])
def test_nesting_without_end_is_refused_when_it_is_read(source: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        Prompt(source)


COSTLY = [
    "{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in big %}{% for b in big if 0 %}{% endfor %}{% endfor %}",
    "{% for a in big %}{% if user in text %}{% endif %}{% endfor %}{% for a in big %}{{ loop.length // 0 }}{% endfor %}",
    '{{ "%999999999d" % 1 }}',
    "{{ 'x' * 1000000000 }}",
    "{{ 1000000000 * [1] }}",
    "{{ [1] * -1000000000 }}{{ 'x' * 10000000 }}",
    "{{ 9 ** 999999999 }}",
    "{{ 9 ** 1000 * 9 ** 1000 * 9 ** 1000 }}",
    "{{ ('f' * 900000) | int(0, 16) + 1 }}",
    "{{ 'a\nb' | indent(900000000) }}",
    "{{ ('x' * 1000) | replace('x', 'y' * 100000) }}",
    "{{ range(99999) | join('x' * 1000) }}",
    "{{ range(999999999) | list }}",
    "{{ 1 | round(1000000000) }}",
    "{{ context | tojson(indent=1000000000) }}",
    "{{ nested | tojson(indent=9) }}",
    "{{ big | map('default', 'x') | map('replace', '', 'y' * 100000) | list }}",
    "{{ big | sort | tojson }}",
    "{{ 'x'['ljust'](1000000000) }}",
    "{{ '{:>999999999}'['format'](1) }}",
    "{% set range = 'x'.ljust %}{{ range(1000000000) }}",
    "{{ ['a'] | map('center', 999999999) | list }}",
    "{% set a = 'x' * 9999 %}" + "{% set a = a ~ a %}" * 40,
    "{% set a = 'x' * 9999 %}" + "{% set a = a + a %}" * 40,
    "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 40 + "{{ a }}",
    "{% set a = {} %}" + "{% set a = {1: a, 2: a} %}" * 40 + "{{ a }}",
    "{% for i in range(9) %}{{ [loop] }}{% endfor %}",
]
LARGE = {**CONTEXT, "big": list(range(100_000)), "text": "x" * 1_000_000}


@pytest.mark.parametrize("source", COSTLY)
async def test_a_costly_template_ends_soon_and_small(source: str) -> None:
    nested: Any = list(range(20_000))
    for _ in range(200):
        nested = [nested]
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(AgentUnavailable, match="mend the template"):
        await rendered(source, {**LARGE, "nested": nested})
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before < 100_000  # KB
    assert after.ru_utime - begun < 5


@pytest.mark.parametrize(
    "source", ["{% for a in range(50000) %}{% if a %}{% endif %}{% endfor %}", "{{ range(99999) | join('') | length }}"]
)
async def test_other_work_goes_on_while_a_template_is_rendered(source: str) -> None:
    task, turns = asyncio.create_task(rendered(source)), 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert (await task).isalnum() or await task == ""
    assert turns > 1  # in the loop itself it would be done in one


async def test_a_plain_template_is_rendered_at_once() -> None:
    task = asyncio.create_task(rendered("{% if tools %}You are {{ user }}; use {{ tools | join(', ') }}.{% endif %}"))
    await asyncio.sleep(0)
    assert task.done()
    assert task.result() == "You are Ann Lee; use a, b."


async def test_no_variable_takes_the_place_of_a_function_or_of_the_budget() -> None:
    hostile: dict[str, Any] = {"range": 1, " budget": None, "self": 1, "args": [], "loop": 2, "environment": 3, "context": 4}
    assert await rendered("{% for i in range(2) %}{{ i }}{% endfor %}{{ context }}{{ environment }}", hostile) == "0143"


PIECES = [
    "{{ a }}",
    "{{ a | ",
    "a.b",
    "'x' * 9",
    " ~ ",
    "join",
    "tojson",
    "{% for i in range(9) %}",
    "{% endfor %}",
    "{% if a %}",
    "{% endif %}",
]
PIECES += ["{% set a = [a, a] %}", "}}", "**", "%", "loop", "[1:2]", "(", ")", "replace('', a)", "|", "\n", "range", "indent(a)", "9"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(["x", -1, 10**9, None, [[1]], {"b": "y"}]))
async def test_no_template_fails_in_another_way(source: str, value: Any) -> None:
    with suppress(TemplateSyntaxError, NodeError):
        assert len(await rendered(source, {"a": value})) <= 1000


def test_the_filters_are_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "agents.md").read_text("utf-8")
    listed = text[text.index("the filters `abs`") : text.index("The rest of Jinja2")]
    assert set(re.findall(r"`(\w+)`", listed)) == {name for name in filters() if name.isalpha()}
