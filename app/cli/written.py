"""Files that a command writes for a person: all or none, and nothing that is there already is lost."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from app.cli.failure import Failure

HOME = Path(__file__).resolve().parents[2]
SHIPPED = HOME / "config"
"""The configuration that comes with the node."""


def template(file: str, /, **values: str) -> str:
    """A file of templates/ with its $variables put in; what else has a dollar stays."""
    return Template(files("app.cli").joinpath("templates", file).read_text("utf-8")).safe_substitute(values)


def shipped(name: str) -> str:
    """A file of the configuration that comes with the node."""
    try:
        return (SHIPPED / name).read_text("utf-8")
    except OSError as error:
        raise Failure(f"{SHIPPED / name} cannot be read: {error.strerror}; this checkout or image is not whole.") from error


def write(texts: Mapping[Path, str], *, force: bool) -> None:
    """Write the files and make their folders. Raises Failure, naming every file that is there, and then writes none."""
    there = [str(path) for path in texts if path.exists()]
    if there and not force:
        raise Failure(f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already, so nothing was written; --force overwrites.")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w" if force else "x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise Failure(f"{path} cannot be written: {error.strerror}; name another folder by --output.") from error
