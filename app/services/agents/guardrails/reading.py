"""``spec.guardrails`` of an agent file, whose shape is right: what each entry guards, and what it says in vain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.services.agents.guardrails.guardrail import Guardrail
from app.services.agents.guardrails.keywords import Keywords, fold_all
from app.services.agents.guardrails.topics import Topics

_NEEDS = {
    "pii_detection": "",
    "max_length": "max_chars",
    "cost_limit": "max_tokens_per_turn",
    "content_filter": "forbidden_keywords",
    "topic_filter": "forbidden_topics",
}
Section = Mapping[str, Sequence[Mapping[str, Any]]]
Problem = Callable[[tuple[str | int, ...], str, str], None]


def read_guardrails(section: Section, problem: Problem) -> Iterator[Guardrail]:
    """The guardrails in their order. One that lacks what it is to look for guards nothing, which nobody wants who writes it: ``problem`` is
    told of it with its path, what is wrong, and the remedy."""
    for side, entries in section.items():
        for index, entry in enumerate(entries):
            yield _guardrail(side, entry, ("guardrails", side, index), problem)


def _guardrail(side: str, entry: Mapping[str, Any], path: tuple[str | int, ...], problem: Problem) -> Guardrail:
    kind, needs = entry["type"], _NEEDS[entry["type"]]
    if needs and needs not in entry:
        problem(path, f"is a {kind} without `{needs}`, which guards nothing", f"write `{needs}:` beside it, or leave it out")
    given = entry.get(needs)
    if isinstance(given, list) and not any(map(fold_all, given)):
        problem((*path, needs), "names nothing to look for", "name at least one")
    limit = given if isinstance(given, int) else 0
    keywords = Keywords(given) if kind == "content_filter" and given else None
    topics = Topics([topic for topic in given if topic.strip()]) if kind == "topic_filter" and given else None
    return Guardrail(side, kind, entry.get("action", ""), limit, keywords, topics)


def idle_fields(section: Section) -> Iterator[str]:
    """What an entry says that its type does not act on."""
    for side, entries in section.items():
        for entry in entries:
            name = f"guardrail `{side}: {entry['type']}`"
            if unused := sorted(set(entry) - {"type", "action", _NEEDS[entry["type"]]}):
                yield f"{name} does not act on {', '.join(f'`{field}`' for field in unused)}"
            if entry.get("action") == "redact" and entry["type"] != "pii_detection":
                does = "cuts" if (side, entry["type"]) == ("output", "max_length") else "blocks"
                yield f"{name} does not redact; it {does}"
