"""Look at configuration files without running a node: profiles, and the files of the services. Nothing is raised, all is told at once."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from app.config import profile, secret, settings
from app.config.settings import Settings
from app.config.yaml import Document, nearest, read
from app.errors import ConfigError, Examined, Problem
from app.services import SERVICES, Files

PROFILE = "RuntimeConfig"
_SETTLED = "settled"
"""Stands for a mesh key where the environment did not choose a profile: what the two lack together is not the question there."""


def examine_all(environ: Mapping[str, str]) -> list[Examined]:
    """The environment, the profile that it chooses, and every other file of its configuration folder."""
    secrets = secret.read_files(environ)
    parsed, problems = settings.parse(secrets.environ)
    chosen = parsed.profile_path if parsed.profile_path.is_file() else None
    found = [Examined(secret.ENVIRONMENT, "", (*secrets.problems, *problems), parsed.warnings)]
    found += [_profile(chosen, parsed)] if chosen else []
    others = [path for path in _profiles(parsed.config_dir) if chosen is None or path.resolve() != chosen.resolve()]
    return _merged([*found, *(_unchosen(path) for path in others), *_of_services(parsed.config_dir, secrets.environ)])


def examine_path(path: Path, environ: Mapping[str, str]) -> list[Examined]:
    """One file, of the kind that it says itself; or all that are in a configuration folder."""
    environ = secret.read_files(environ).environ
    if path.is_dir():
        found = [*(_unchosen(each) for each in _profiles(path)), *_of_services(path, environ)]
        told = Problem(str(path), "holds no configuration", remedy="name a file, or a folder with profiles/, agents/ or providers.yaml")
        return _merged(found) or [Examined(str(path), "", (told,))]
    try:
        document = read(path)
    except ConfigError as error:
        return [Examined(str(path), "", error.problems)]
    kind = _kind(document)
    if kind == PROFILE:
        return [_unchosen(path)]
    if kind in (kinds := _by_kind()):
        return _merged(_examined(kinds[kind], [path], environ))
    remedy = nearest(str(kind), [PROFILE, *(str(each) for each in kinds if each)])
    problem = document.problem(("kind",), f"is {kind!r}, which is no kind of configuration file", remedy)
    return [Examined(str(path), "", (problem,))]


def _kind(document: Document) -> object:
    """The file's kind: "" for ``channels.yaml``, the one file that has no header."""
    return "" if "channels" in document.data and "kind" not in document.data else document.data.get("kind")


def _by_kind() -> dict[object, Files]:
    return {entry.files.kind: entry.files for entry in SERVICES.values() if entry.files}


def _profiles(folder: Path) -> list[Path]:
    """``runtime.yaml``, and what is in the folder of profiles."""
    return [path for path in (folder / "runtime.yaml", *sorted((folder / "profiles").glob("*.yaml"))) if path.is_file()]


def _profile(path: Path, parsed: Settings) -> Examined:
    try:
        return Examined(str(path), PROFILE, warnings=profile.load(path, parsed).warnings)
    except ConfigError as error:
        return Examined(str(path), PROFILE, error.problems)


def _unchosen(path: Path) -> Examined:
    return _profile(path, replace(settings.parse({})[0], mesh_keys=(_SETTLED,)))


def _of_services(folder: Path, environ: Mapping[str, str]) -> Iterator[Examined]:
    for entry in SERVICES.values():
        if entry.files:
            yield from _examined(entry.files, sorted(folder.glob(entry.files.pattern)), environ)


def _examined(files: Files, paths: Sequence[Path], environ: Mapping[str, str]) -> Iterator[Examined]:
    module, _, name = files.examine.partition(":")
    examine: Callable[[Sequence[Path], Mapping[str, str]], Iterator[Examined]] = getattr(importlib.import_module(module), name)
    return examine(paths, environ)


def _merged(found: Sequence[Examined] | Iterator[Examined]) -> list[Examined]:
    """One row for each file, and for the environment, of which several may have something to say."""
    merged = dict[str, Examined]()
    for each in found:
        known = merged.get(each.file)
        joined = each if known is None else replace(known, problems=(*known.problems, *each.problems))
        merged[each.file] = joined
    return list(merged.values())
