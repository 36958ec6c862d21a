"""entrypoint.sh, run as a person runs it: outside the image with .venv, inside it with /opt/venv."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from app import __version__
from app.config.settings import VARIABLES

ROOT = Path(__file__).resolve().parent.parent
IN_IMAGE = Path("/opt/venv/bin/python").exists()


SCRIPT = ROOT / "entrypoint.sh"


def entrypoint(
    *arguments: str, environ: Mapping[str, str] = MappingProxyType({}), cwd: Path = ROOT, script: Path = SCRIPT
) -> "subprocess.CompletedProcess[str]":
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ASTROMESH_", "PYTHON"))}
    command = (str(script), *arguments)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, cwd=cwd, env={**plain, **environ})


def profiles_that_cannot_load(folder: Path) -> dict[str, str]:
    """A configuration folder whose profiles are all empty, so that the error names the one that was chosen, and nothing is served."""
    (folder / "profiles").mkdir()
    for name in ("full", "gateway", "worker", "mesh-worker", "custom"):
        (folder / "profiles" / f"{name}.yaml").touch()
    return {"ASTROMESH_CONFIG_DIR": str(folder), "ASTROMESH_DATA_DIR": str(folder / "data")}


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        ({}, "full"),
        ({"ASTROMESH_ROLE": "worker"}, "worker"),
        ({"ASTROMESH_ROLE": "worker", "ASTROMESH_MESH_ENABLED": "Yes"}, "mesh-worker"),
        ({"ASTROMESH_ROLE": "worker", "ASTROMESH_MESH_ENABLED": "off"}, "worker"),
        ({"ASTROMESH_ROLE": "worker", "ASTROMESH_MESH_ENABLED": "true", "ASTROMESH_PROFILE": "custom"}, "custom"),
    ],
)
def test_profile_or_else_role_and_mesh_resolve_to_one_yaml_file(tmp_path: Path, environ: dict[str, str], chosen: str) -> None:
    done = entrypoint(environ={**profiles_that_cannot_load(tmp_path), **environ})
    assert done.returncode == 78
    assert f"{tmp_path}/profiles/{chosen}.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_role_lists_what_there_is(tmp_path: Path) -> None:
    done = entrypoint(environ={**profiles_that_cannot_load(tmp_path), "ASTROMESH_ROLE": "wroker"})
    assert done.returncode == 78
    assert all(word in done.stderr for word in ("wroker", "full", "gateway", "worker", "inference"))


def test_it_starts_the_node_of_its_own_folder_from_any_working_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "app").mkdir(parents=True)
    (elsewhere / "app" / "__main__.py").write_text("raise SystemExit('the wrong app')")
    done = entrypoint(cwd=elsewhere, environ=profiles_that_cannot_load(tmp_path))
    assert done.returncode == 78
    assert "full.yaml" in done.stderr


def test_any_other_command_runs_as_it_is_with_its_arguments_and_exit_code() -> None:
    done = entrypoint("sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "two words", "*")
    assert (done.stdout, done.returncode) == ("two words|*|", 7)


@pytest.mark.parametrize("arguments", [("--bogus",), ("--port", "8000"), ("--help", "me"), ("",)])
def test_an_argument_starts_no_node_but_is_told_with_what_there_is(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = entrypoint(*arguments, environ=profiles_that_cannot_load(tmp_path))
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith(f"unknown argument {arguments[0]!r}\nusage: ")
    assert "ASTROMESH_ROLE" in done.stderr
    assert "docs/configuration.md" in done.stderr


def test_help_and_version_are_told_on_standard_output(tmp_path: Path) -> None:
    broken = profiles_that_cannot_load(tmp_path)
    told, version = entrypoint("--help", environ=broken), entrypoint("--version", environ=broken)
    assert (told.returncode, told.stderr, told.stdout.split()[0]) == (0, "", "usage:")
    assert (version.returncode, version.stderr, version.stdout) == (0, "", f"astromesh-node {__version__}\n")
    named = set(re.findall(r"ASTROMESH_[A-Z_]+", told.stdout))
    assert named <= set(VARIABLES)


@pytest.mark.skipif(IN_IMAGE, reason="the image always has its Python")
def test_without_its_python_it_says_what_to_run(tmp_path: Path) -> None:
    script = tmp_path / "entrypoint.sh"
    shutil.copy(SCRIPT, script)
    done = entrypoint(script=script)
    assert done.returncode == 78
    assert "make setup" in done.stderr


def test_it_stays_short_and_ends_in_exec() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) < 40
    assert lines[-1].startswith("exec ")
