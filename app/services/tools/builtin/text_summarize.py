"""``text_summarize``: a long text in few words, by a model; one that is longer than a model takes is summarised part by part."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from app.call import call
from app.errors import NodeError
from app.services.contract import Locate
from app.services.tools.tool import ToolError

PART_CHARS, MAX_CHARS = 24_000, 400_000
_AT_ONCE = 4
_PROMPT = "Summarise the text that the user sends in at most {words} words, in its own language. Say nothing but the summary."
_JOIN = "These are summaries of the consecutive parts of one text. " + _PROMPT


@dataclass(frozen=True, slots=True)
class TextSummarize:
    locate: Locate
    model: str = "default"
    name: ClassVar[str] = "text_summarize"
    description: ClassVar[str] = "Summarise a long text in few words."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": MAX_CHARS},
            "max_words": {"type": "integer", "minimum": 5, "maximum": 2000, "default": 100},
        },
    }

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        text, words = arguments["text"], arguments.get("max_words", 100)
        count, rest, prompt = len(_parts(text)), text, _PROMPT
        while len(parts := _parts(rest)) > 1:
            rest, before = "\n\n".join(await self._each(_PROMPT.format(words=words), parts)), len(rest)
            if len(rest) >= before:
                raise ToolError(
                    f"The model {self.model!r} makes the text no shorter; ask for fewer words than {words}, or take another model."
                )
            prompt = _JOIN
        return {"summary": await self._ask(prompt.format(words=words), rest), "parts": count, "characters": len(text)}

    async def _each(self, prompt: str, parts: Sequence[str]) -> list[str]:
        """The summaries of the parts, some at a time. Raises the first ToolError, and asks for no more."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(part: str) -> str:
            async with slots:
                return await self._ask(prompt, part)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(part)) for part in parts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, prompt: str, text: str) -> str:
        body = {"model": self.model, "messages": [{"role": "system", "content": prompt}, {"role": "user", "content": text}]}
        try:
            async with call(self.locate("inference", self.model), "POST", "/v1/chat/completions", body=body) as reply:
                await reply.raise_for_status()
                content = (await reply.json())["choices"][0]["message"]["content"]
        except NodeError as error:
            raise ToolError(f"The model {self.model!r} (spec.tools.text_summarize.model) gave no summary: {error.message}") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise ToolError(f"The model {self.model!r} gave an answer that is no chat completion.") from None
        if not isinstance(content, str) or not content.strip():
            raise ToolError(
                f"The model {self.model!r} (spec.tools.text_summarize.model) gave an empty summary; try again, or take another."
            )
        return content.strip()


def _parts(text: str) -> list[str]:
    """Parts of at most PART_CHARS, cut at a line end or a space where there is one."""
    parts, rest = list[str](), text
    while len(rest) > PART_CHARS:
        window = rest[:PART_CHARS]
        at = max(window.rfind("\n", PART_CHARS // 2), window.rfind(" ", PART_CHARS // 2)) + 1 or PART_CHARS
        parts.append(rest[:at])
        rest = rest[at:]
    return [*parts, rest]
