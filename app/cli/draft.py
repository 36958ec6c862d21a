"""A YAML file of configuration as text that is being written: changed line by line, so that its comments stay."""

import re
from collections.abc import Sequence

from app.cli.failure import Failure
from app.config.yaml import Document, YamlPath, dotted, parse

_KEYED = re.compile(r"(?P<before>\s*(?:- )*[\w.-]+:(?= |$))(?P<value>.*?)(?P<comment>\s+#.*)?")
_ITEM = re.compile(r"(?P<before>\s*-)(?P<value> .*?)(?P<comment>\s+#.*)?")


class Draft:
    """``file`` is the name under which mistakes are told."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self._file = text if text.endswith("\n") else text + "\n", file

    def set(self, path: YamlPath, value: str) -> None:
        """Replace one value that stands on a line of its own; ``value`` is written as YAML."""
        number = self._document().lines.get(path)
        lines = self.text.splitlines(keepends=True)
        shape = _ITEM if isinstance(path[-1], int) else _KEYED
        found = shape.fullmatch(lines[number - 1].rstrip("\n")) if number else None
        if number is None or found is None:
            raise self._stuck(path)
        lines[number - 1] = f"{found['before'].rstrip()} {value}{found['comment'] or ''}\n"
        self._take("".join(lines), path)

    def insert(self, path: YamlPath, entry: Sequence[str]) -> None:
        """Put an entry, as lines without indentation, first below the key at ``path``."""
        number = self._document().lines.get(path)
        lines = self.text.splitlines(keepends=True)
        if number is None or not re.fullmatch(r"\s*[\w.-]+:\s*(#.*)?\n", lines[number - 1]):
            raise self._stuck(path)
        indent = " " * self._indent(path, lines, number)
        lines[number:number] = [f"{indent}{line}\n" for line in entry]
        self._take("".join(lines), path)

    def has(self, path: YamlPath) -> bool:
        return path in self._document().lines

    def _indent(self, path: YamlPath, lines: Sequence[str], number: int) -> int:
        """That of what already stands below the key, or two more than the key's."""
        first = min((line for at, line in self._document().lines.items() if len(at) == len(path) + 1 and at[:-1] == path), default=0)
        told = lines[first - 1] if first > number else "  " + lines[number - 1]
        return len(told) - len(told.lstrip())

    def _document(self) -> Document:
        return parse(self.text, self._file)

    def _take(self, text: str, path: YamlPath) -> None:
        """The new text, when it still is YAML that has the path."""
        if path not in parse(text, self._file).lines:
            raise self._stuck(path)
        self.text = text

    def _stuck(self, path: YamlPath) -> Failure:
        return Failure(f"{self._file}: {dotted(path)} does not stand on lines of its own, so it is not changed; change it by hand.")
