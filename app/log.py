"""Log lines for people (text) or machines (JSON), each with the ids of its request. Never message content, never keys."""

import json
import logging
import sys
import time

from app.context import CURRENT

_BARE = ("request_id", "principal")
"""What a line of text shows without its name."""


def set_up(level: str, form: str) -> None:
    """Log to stderr; ``form`` is "text" or "json", ``level`` one of logging's names in lower case."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSON() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the edge says what there is to say of a request
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """The ids of the request that a line belongs to, those that there are: its own, its trace's, its session's, and its principal."""
    context = CURRENT.get(None)
    ids = {
        "request_id": str(getattr(record, "request_id", context.request_id if context else "")),
        "trace_id": context.trace_id if context else "",
        "session_id": (context.session or "") if context else "",
        "principal": str(getattr(record, "principal", context.principal if context else "")),
    }
    return {name: value for name, value in ids.items() if value}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        told = " ".join(value if name in _BARE else f"{name.removesuffix('_id')}={value}" for name, value in _ids(record).items())
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}" + (f" [{told}]" if told else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JSON(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _ids(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
