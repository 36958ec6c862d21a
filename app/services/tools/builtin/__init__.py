"""The tools that every node has; a new one is a file here and a line below."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.services.contract import Locate
from app.services.tools.builtin import http_request
from app.services.tools.builtin.calculator import Calculator
from app.services.tools.builtin.datetime_now import DatetimeNow
from app.services.tools.builtin.json_transform import JsonTransform
from app.services.tools.builtin.knowledge_search import KnowledgeSearch
from app.services.tools.builtin.read_file import ReadFile
from app.services.tools.builtin.text_summarize import TextSummarize
from app.services.tools.tool import Tool

CONFIGURED = ("http_request", "read_file", "text_summarize")
"""The tools that have a section of their own under ``spec.tools``."""


def builtin_tools(sections: Mapping[str, Mapping[str, Any]], locate: Locate) -> Sequence[Tool]:
    """``sections`` are those of CONFIGURED, checked by the schema."""
    return [
        Calculator(),
        DatetimeNow(),
        http_request.HttpRequest(http_request.settings_of(sections.get("http_request", {}))),
        ReadFile(**sections.get("read_file", {})),
        JsonTransform(),
        KnowledgeSearch(locate),
        TextSummarize(locate, **sections.get("text_summarize", {})),
    ]
