"""The embedded default: rules, not a language model. Deterministic. It reads the last user message by this grammar, in this order:

  arithmetic = operand operator operand ... with ( ) + - * / // % ** ^, or between numbers: plus, minus, times, multiplied by, divided
               by, to the power of; "N squared", "N cubed", "P percent of N", "square root of N". Goes to a tool with an expression.
  recall     = "what did I|you ask|say|answer ...", "what was the|my|your answer|result|question ...", "earlier", "previously",
               "remind me", "repeat". Tells the exchange before (the first one, where it says "first").
  time       = "what|which|tell|give|current ... time|date|day|hour", "time|date in|now|at". Goes to a tool with a time zone,
               once for each place that the tz database knows, else for UTC.
  tool       = a clause (between . ! ? ; "and" "then") with at least half of the words of a tool's name. Its parameters are filled
               from: the word after the parameter's name, an enum's word, quoted text, numbers; a single missing text gets the rest.
  fact       = "my X is Y", "I am Y", "call me Y"; asked for by "what|who|which|where|when|how ... my X?", "who am I?".
  sentence   = whatever an earlier user message said with at least half of the question's words.

Calls go out together, or one by one with parallel_tool_calls false. Their results make the answer. What fits nothing is told openly.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from app.errors import BadRequest
from app.services.inference import features
from app.services.inference.answer import RULES, Answer, for_one_answer, text_of, tool_call, usage
from app.services.inference.places import find_zones
from app.services.inference.provider import Chunk, ProviderSpec

OWNED_BY = "astromesh-builtin (rule-based, not a language model)"
_READ = 2000  # characters of a message: what is asked stands there, and the patterns below stay quick
_REMEMBERED = 100  # messages
_CALLS = 16  # in one answer
_NUMBER = r"\d+(?:\.\d+)?"
_EXPRESSION = re.compile(rf"(?<![\w.])[-(]{{0,9}}{_NUMBER}(?: ?\){{0,9}} ?(?:\*\*|//|[-+*/%]) ?[-( ]{{0,9}}{_NUMBER})+\){{0,9}}")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?/\d\d?/\d{4}")
_SIGNS = {"plus": "+", "minus": "-", "times|multiplied by|x|\xd7": "*", "divided by|÷": "/", r"to the power of|\^": "**"}
_SPOKEN = {
    r"\s+": " ",
    r"(?<=\d),(?=\d{3}\b)": "",
    rf"\b(?:the )?square root of ({_NUMBER})": r"\1 ** 0.5",
    r"(?<=[\d)]) squared\b": " ** 2",
    r"(?<=[\d)]) cubed\b": " ** 3",
    r"(?<=\d) ?(?:percent|%) of (?=[\d(])": " / 100 * ",
    **{rf"(?<=[\d)]) ?(?:{words}) ?(?=[-\d(])": f" {sign} " for words, sign in _SIGNS.items()},
}
_RECALL = re.compile(
    r"(?i)\bdid (?:i|you|we)\b.*\b(?:ask|say|tell|answer|reply)\b|\b(?:earlier|previously|remind me|repeat)\b"
    r"|\b(?:was|were) (?:the|my|your|that)\b.*\b(?:answers?|results?|questions?|reply|before|again)\b"
)
_TIME = re.compile(
    r"(?i)\b(?:what|which|tell|give|current)\b[^.?!]*\b(?:time|date|day|hour)\b|\b(?:time|date) (?:in|now|at)\b|\btoday's date\b"
)
_CLAUSE_END = re.compile(r"(?i)[.!?;](?:\s+|$)|,?\s+(?:and|then)\s+")
_FACT = re.compile(r"(?i)\bmy (\w[\w ]{0,40}?) (?:is|are) ([^.!?;]{1,200}?)(?= (?:and|but) (?:i|my|we)\b|[.!?;]|$)")
_NAME = re.compile(r"\b(?:[Ii](?: am|'m)(?: called)?|[Cc]all me) ([A-Z][\w-]*)")
_ASKED_FACT = re.compile(r"(?i)\b(?:what|who|which|where|when|how|know|remember)\b.*\bmy (\w[\w ]{0,40}?)(?: again| now)?\s*(?:\?|$)")
_SMALL = re.compile(
    "a|about|am|an|and|any|are|at|be|by|can|could|did|do|does|for|from|get|give|has|have|how|i|in|is|it|its|me|my|of|on|or|please|s|say|so|"
    "tell|that|the|then|there|this|to|use|using|was|we|were|what|what's|when|where|which|who|why|will|with|would|you|your"
)
_VALUES = ("result", "answer", "value", "output", "text", "content", "readable", "iso", "datetime", "time")
_DEFAULTS: Mapping[str, Any] = {"string": "", "number": 0, "integer": 0, "boolean": True, "array": [], "object": {}}
_ABOUT = (
    "I am the built-in answerer of this node: a set of rules, not a language model. I pass arithmetic, questions for the time and what "
    "matches a tool's name on to the tools I am given, tell their results, and repeat what was said before. Attach a model for more."
)
_EXPRESSIONS = ("expr", "formula", "equation", "calculation")
_ZONES = ("timezone", "time_zone", "tz")
Call = tuple[str, dict[str, Any]]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    properties: Mapping[str, Mapping[str, Any]]
    required: frozenset[str]

    def takes(self, parts: Iterable[str]) -> str | None:
        """The first text parameter whose name contains one of ``parts``."""
        texts = (name for name, schema in self.properties.items() if schema.get("type", "string") == "string")
        return next((name for name in texts if any(part in name.lower() for part in parts)), None)


class Builtin:
    """The rules as a provider."""

    def __init__(self, spec: ProviderSpec) -> None:
        self.spec = spec

    async def probe(self) -> tuple[str, ...]:
        return self.spec.models or ("builtin",)

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        words, calls, finish, used = _reply(request)
        message = {"content": "".join(words), **({"tool_calls": [tool_call(*call) for call in calls], "content": None} if calls else {})}
        return Answer(str(request["model"]), RULES).completion(message, finish, used)

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        answer = Answer(str(request["model"]), RULES)
        words, calls, finish, used = _reply(request)
        yield answer.chunk({"role": "assistant"})
        for word in words:
            yield answer.chunk({"content": word})
            await asyncio.sleep(0)
        for index, call in enumerate(calls):
            yield answer.chunk({"tool_calls": [tool_call(*call, index=index)]})
        yield answer.chunk({}, finish)
        if (request.get("stream_options") or {}).get("include_usage"):
            yield answer.usage_chunk(used)

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(given := request["input"], list) and not all(isinstance(text, str) for text in given):
            raise BadRequest("The built-in rules have no tokens; send `input` as a text or a list of texts.", param="input")
        return await asyncio.to_thread(features.answer, request)


def _reply(request: Mapping[str, Any]) -> tuple[list[str], list[Call], str, dict[str, int]]:
    """Words, calls, finish_reason and usage; words are the tokens."""
    text, calls = respond(for_one_answer(request))
    words = re.findall(r"\s*\S+", text)
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or len(words)
    finish = "tool_calls" if calls else "length" if limit < len(words) else "stop"
    sent = sum(len(_text(message).split()) for message in request["messages"])
    return words[:limit], calls, finish, usage(sent, len(words[:limit]) + sum(1 + len(arguments) for _, arguments in calls))


def respond(request: Mapping[str, Any]) -> tuple[str, list[Call]]:
    """What the rules say to a chat completion request: a text, or calls."""
    messages = request["messages"][-_REMEMBERED:]
    asked = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
    question, before, after = _text(messages[asked]) if asked >= 0 else "", messages[: max(asked, 0)], messages[asked + 1 :]
    made = [(call.get("id"), _made(call["function"])) for message in after for call in message.get("tool_calls") or []]
    planned = plan(question, [_tool(tool) for tool in request.get("tools") or []], request.get("tool_choice"))
    left = [call for call in planned if all(call != one for _, one in made)] if len(made) < len(planned) else []
    if left:
        return "", left if request.get("parallel_tool_calls") is not False else left[:1]
    results = [_result(dict(made).get(message.get("tool_call_id")), _text(message)) for message in after if message["role"] == "tool"]
    return " ".join(results) or recall(question, before), []


def plan(question: str, tools: Sequence[Tool], choice: Any) -> list[Call]:
    """The calls that the question asks for, all at once."""
    forced = (choice.get("function") or {}).get("name") if isinstance(choice, Mapping) else None
    tools = [] if choice == "none" else [tool for tool in tools if forced in (None, tool.name)]
    sums, rest = expressions(question)
    by_sum = next(((tool.name, key) for tool in tools if (key := tool.takes(_EXPRESSIONS))), None)
    by_zone = next(((tool.name, key) for tool in tools if (key := tool.takes(_ZONES))), None)
    calls: list[Call] = [(by_sum[0], {by_sum[1]: each}) for each in sums] if by_sum else []
    if not _RECALL.search(rest):
        if by_zone and _TIME.search(rest):
            calls += [(by_zone[0], {by_zone[1]: zone}) for zone in find_zones(rest) or ["UTC"]]
        others = [tool for tool in tools if not tool.takes(_EXPRESSIONS + _ZONES)]
        calls += [call for clause in _CLAUSE_END.split(rest) for call in _matching(clause, others)]
    if not calls and tools and (forced or choice == "required"):
        calls = [(tools[0].name, _filled(tools[0], question, forced=True) or {})]
    return [call for at, call in enumerate(calls) if call not in calls[:at]][:_CALLS]


def expressions(text: str) -> tuple[list[str], str]:
    """The arithmetic in a text, and the text without it."""
    for pattern, sign in _SPOKEN.items():
        text = re.sub(pattern, sign, text, flags=re.IGNORECASE)
    found = [match[0].strip() for match in _EXPRESSION.finditer(text) if not _DATE.fullmatch(match[0])]
    for at, each in enumerate(found):
        while each.count("(") > each.count(")") and each[0] == "(":
            each = each[1:]
        while each.count(")") > each.count("(") and each[-1] == ")":
            each = each[:-1]
        found[at] = each
    return [each for each in found if each.count("(") == each.count(")")], _EXPRESSION.sub(" ", text)


def _matching(clause: str, tools: Iterable[Tool]) -> list[Call]:
    """The call of the tool that the clause speaks of most, if it speaks of one and has what the tool requires."""
    said, best, score = set(_words(clause)), None, (0, 0)
    for tool in tools:
        name, keys = set(_words(tool.name)), {word for key in tool.properties for word in _words(key)}
        reached = (len(name & said), len(keys & said))
        if 2 * reached[0] >= len(name) and reached[0] and reached > score:
            best, score = tool, reached
    return [(best.name, filled)] if best and (filled := _filled(best, clause, forced=False)) is not None else []


def _filled(tool: Tool, clause: str, forced: bool) -> dict[str, Any] | None:
    """Arguments for a tool; None where a required one is not in the clause and the call is not forced."""
    quoted, numbers = re.findall(r"[\"“]([^\"”]+)[\"”]", clause), re.findall(rf"-?{_NUMBER}", clause)
    found: dict[str, Any] = {}
    for key, schema in tool.properties.items():
        kind, options, required = schema.get("type", "string"), schema.get("enum"), key in tool.required
        name = re.escape(key.replace("_", " "))
        named = re.search(rf"\b{name}\b(?: is| of| to)?[ =:]+(?:[\"“]([^\"”]+)|([\w.@/+-]*\w))", clause, re.IGNORECASE)
        if isinstance(options, list):
            said = [option for option in options if re.search(rf"\b{re.escape(str(option))}\b", clause, re.IGNORECASE)]
            found |= {key: option for option in said[:1]}  # noqa: B035
        elif kind in ("number", "integer") and required and numbers:
            number = float(numbers.pop(0))
            found[key] = int(number) if kind == "integer" or number.is_integer() else number
        elif kind == "string" and named and (named[1] or not _SMALL.fullmatch(named[2].lower())):
            found[key] = named[1] or named[2]
        elif kind == "string" and required and quoted:
            found[key] = quoted.pop(0)
    missing = [key for key in tool.properties if key in tool.required and key not in found]
    rest = _rest(clause, tool)
    if len(missing) == 1 and tool.properties[missing[0]].get("type", "string") == "string" and rest:
        found[missing.pop()] = rest
    if forced:
        found |= {key: _DEFAULTS.get(str(tool.properties[key].get("type")), clause) for key in missing}
    return found if forced or not missing else None


def _rest(clause: str, tool: Tool) -> str:
    """What a clause says besides the tool's name: what follows it, else what stands before it."""
    words, name = re.findall(r"[^\s,:?!\"“”]+", clause), set(_words(tool.name))
    last = max((at for at, word in enumerate(words) if name & set(_words(word))), default=-1)
    for part in (words[last + 1 :], words[: max(last, 0)]):
        if kept := [at for at, word in enumerate(part) if not _SMALL.fullmatch(word.lower())]:
            return " ".join(part[kept[0] : kept[-1] + 1])
    return ""


def recall(question: str, before: Messages) -> str:
    """An answer from what was said before, or what this is."""
    users = [text for message in before if message["role"] == "user" and (text := _text(message))]
    if _RECALL.search(question):
        return _exchange(before, 0 if re.search(r"\bfirst\b", question, re.IGNORECASE) else -1) if users else "Nothing was said before."
    told, new = (
        [one for text in texts for one in re.split(r"(?<=[.!?])\s+", text) if not one.endswith("?")] for texts in (users, [question])
    )
    known = {found[1].lower(): found[2] for one in told + new for found in _FACT.finditer(one)}
    known |= {"name": found[1] for one in told + new for found in _NAME.finditer(one)}  # noqa: B035
    if asked := _ASKED_FACT.search(re.sub(r"(?i)\bwho am i\b", "what is my name", question)):
        fact = asked[1].lower()
        return f"Your {fact} is {known[fact]}." if fact in known else f"You have not told me your {fact}."
    wanted = set(_words(question))
    said = max(told, key=lambda one: len(wanted.intersection(_words(one))), default="")
    if wanted and 2 * len(wanted.intersection(_words(said))) >= len(wanted):
        return f"You said: “{said}”"
    facts = [f"your {found[1].lower()} is {found[2]}" for one in new for found in _FACT.finditer(one)]
    return f"Noted: {', '.join(facts)}." if facts else f"{_ABOUT} You asked: “{question}”" if question else _ABOUT


def _exchange(before: Messages, which: int) -> str:
    at = [index for index, message in enumerate(before) if message["role"] == "user" and _text(message)][which]
    after = takewhile(lambda message: message["role"] != "user", before[at + 1 :])
    answers = [_text(message) for message in after if message["role"] == "assistant" and _text(message)]
    return f"You asked: “{_text(before[at])}”" + (f" I answered: “{answers[-1]}”" if answers else "")


def _result(call: Call | None, content: str) -> str:
    """A sentence on one tool's result."""
    name, arguments = call or ("The tool", {})
    value, failed = _value(content)
    for key, argument in arguments.items() if len(arguments) == 1 and not failed else ():
        one = Tool(name, {key: {}}, frozenset())
        if one.takes(_EXPRESSIONS + _ZONES):
            return f"{argument} = {value}." if one.takes(_EXPRESSIONS) else f"In {argument} it is {value}."
    return f"{name} failed: {value}" if failed else f"{name} says: {value}"


def _value(content: str) -> tuple[str, bool]:
    """A tool's result as people read it, and whether it is an error."""
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError):
        return re.sub(r"(?i)^error:\s*", "", content), content.lower().startswith("error")
    while isinstance(found, Mapping):
        if (error := found.get("error")) or found.get("status") == "error":
            return str(error.get("message", error) if isinstance(error, Mapping) else error or "it gave no reason"), True
        if (inner := next((found[key] for key in _VALUES if found.get(key) is not None), None)) is None:
            break
        found = inner
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False), False


def _words(text: str) -> list[str]:
    """The words that say something, without a plural s: "get_weather" and "getWeather" give "weather"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", text).lower()
    return [word.removesuffix("s") for word in re.findall(r"[^\W_]+", spaced) if not _SMALL.fullmatch(word)]


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = tool.get("function") or {}
    shape = function.get("parameters") or {}
    found, required = shape.get("properties"), shape.get("required")
    properties = {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}
    return Tool(str(function.get("name", "")), properties, frozenset(map(str, required if isinstance(required, list) else ())))


def _made(function: Mapping[str, Any]) -> Call:
    try:
        return function["name"], dict(json.loads(function.get("arguments") or "{}"))
    except (ValueError, TypeError, RecursionError):
        return function["name"], {}


def _text(message: Mapping[str, Any]) -> str:
    return text_of(message.get("content"))[:_READ].strip()
