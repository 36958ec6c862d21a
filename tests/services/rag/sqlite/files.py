"""What is in the folder of a store."""

from pathlib import Path


def data(folder: Path) -> set[str]:
    """The files of collections."""
    return {path.name for path in folder.glob("*.sqlite")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def modes(folder: Path) -> dict[str, int]:
    return {path.suffix: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def size(folder: Path) -> int:
    """Of the one collection there is."""
    [name] = data(folder)
    return (folder / name).stat().st_size


def left(folder: Path, *names: str) -> None:
    """Files with these names and nothing of use in them."""
    for name in names:
        (folder / name).write_bytes(b"remains" * 100)


def found(folder: Path, words: list[str]) -> list[tuple[str, str]]:
    """(file, word) wherever one of the words stands in a file."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [(name, word) for name, content in contents.items() for word in words if word.encode() in content]
