"""Read one file from standard input and answer its text: `python -m app.reading`.

In: a line of JSON, ``{kind: html|pdf, charset, memory_bytes, cpu_s, text_chars}``, then the file's bytes. Out: ``{text, metadata}`` or
``{error}``, which says what is wrong with the file and the remedy.
"""

import json
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

from app.reading import Unreadable

Found = tuple[str, Mapping[str, Any]]


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    _limit(asked)
    json.dump(_answer(asked, sys.stdin.buffer.read()), sys.stdout)


def _limit(asked: Mapping[str, Any]) -> None:
    """From here on: so much memory and processor time, no file written, no trace left of a crash."""
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_s"], asked["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(asked: Mapping[str, Any], data: bytes) -> Mapping[str, Any]:
    try:
        text, metadata = _reader(asked["kind"])(data, asked["charset"])
        if len(text) > asked["text_chars"]:
            raise Unreadable(f"has {len(text)} characters of text, more than {asked['text_chars']}; split it")
        return {"text": _sound(text), "metadata": {key: _sound(value) for key, value in metadata.items()}}
    except Unreadable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"needs more than {asked['memory_bytes'] >> 20} MiB of memory to be read; split it, or convert it to plain text"}
    except RecursionError:
        return {"error": "is nested too deep to be read; convert it to plain text"}
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {"error": f"cannot be read as {asked['kind'].upper()} ({told}); save it anew, or convert it to plain text"}


def _reader(kind: str) -> Callable[[bytes, str | None], Found]:
    """Imported when it is known which one is wanted: together they take a fifth of a second."""
    if kind == "pdf":
        from app.reading import pdf

        return pdf.read
    from app.reading import html

    return html.read


def _sound(value: Any) -> Any:
    """Text without what no database keeps: NUL, and halves of surrogate pairs."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


if __name__ == "__main__":
    main()
