"""Log lines for people (text) or machines (JSON), each with the request id where there is one. Never message content, never keys."""

import json
import logging
import sys
import time

from app.context import CURRENT


def set_up(level: str, form: str) -> None:
    """Log to stderr; ``form`` is "text" or "json", ``level`` one of logging's names in lower case."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSON() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the edge says what there is to say of a request
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _request_id(record: logging.LogRecord) -> str:
    given = getattr(record, "request_id", None)
    if given is None:
        context = CURRENT.get(None)
        return context.request_id if context else ""
    return str(given)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = _request_id(record)
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        principal = getattr(record, "principal", "")
        told = " ".join(part for part in (request_id, principal) if part)
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
        if request_id := _request_id(record):
            fields["request_id"] = request_id
        if principal := getattr(record, "principal", ""):
            fields["principal"] = principal
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
