"""The image as it is shipped: every role locked down and under any user, profiles of one's own, clear errors, other commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compose.stack import HEALTHCHECK, QUESTION, ROOT, ask, docker, healthy, run, wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(120)]
LOCKED_DOWN = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
ROLES = ("full", "gateway", "worker", "inference")


@contextmanager
def node(*options: str) -> Iterator[str]:
    """A node in a container, listening; yields the container's id."""
    container = docker("run", "--detach", *options, "astromesh:latest").stdout.strip()
    try:
        wait_until(lambda: healthy(container), "the node listens")
        yield container
    except BaseException as failure:
        failure.add_note(docker("logs", container, check=False).stderr)
        raise
    finally:
        docker("rm", "--force", "--volumes", container)


def fails(*options: str, environ: str) -> tuple[int, str]:
    """Exit code and stderr of a node that cannot start."""
    done = docker("run", "--rm", *options, "--env", environ, "astromesh:latest", check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("user", ["10001:0", "12345:0"])
@pytest.mark.parametrize("role", ROLES)
def test_every_role_runs_locked_down_under_any_user_of_group_0_and_stops_cleanly(role: str, user: str) -> None:
    with node(*LOCKED_DOWN, "--user", user, "--env", f"ASTROMESH_ROLE={role}", "--env", "ASTROMESH_DRAIN_S=1") as container:
        docker("stop", "--time", "10", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "0"


def test_a_full_node_answers_with_tools_and_memory_where_it_may_write_only_its_data() -> None:
    with node(*LOCKED_DOWN, "--user", "12345:0", "--publish", "127.0.0.1:0:8000") as container:
        url = "http://" + docker("port", container, "8000").stdout.split()[0]
        first = run(url, QUESTION)
        assert "391" in first.json["answer"]
        assert QUESTION in run(url, "What did I ask before?", first.json["session_id"]).json["answer"]


@pytest.mark.parametrize("role", ["gateway", "inference"])
def test_roles_that_keep_nothing_run_under_a_user_that_owns_no_data_directory(role: str) -> None:
    with node(*LOCKED_DOWN, "--user", "12345:12345", "--env", f"ASTROMESH_ROLE={role}") as container:
        assert docker("exec", container, *HEALTHCHECK).returncode == 0


@pytest.mark.parametrize("role", ["full", "worker"])
def test_roles_that_write_say_whose_the_data_directory_must_be(role: str) -> None:
    code, told = fails(*LOCKED_DOWN, "--user", "12345:12345", environ=f"ASTROMESH_ROLE={role}")
    assert code == 78
    assert "/data" in told
    assert "12345:12345" in told


def test_a_profile_of_ones_own_is_taken_by_its_path(tmp_path: Path) -> None:
    custom = tmp_path / "custom-worker.yaml"
    custom.write_text((ROOT / "config/profiles/worker.yaml").read_text().replace("name: worker", "name: custom-worker"))
    tmp_path.chmod(0o755)
    mount = ("--volume", f"{custom}:/app/config/profiles/custom-worker.yaml:ro")
    chosen = ("--env", "ASTROMESH_PROFILE=/app/config/profiles/custom-worker.yaml", "--env", "ASTROMESH_ROLE=gateway")
    with node(*mount, *chosen, "--publish", "127.0.0.1:0:8000") as container:
        status = ask("http://" + docker("port", container, "8000").stdout.split()[0], "/v1/system/status").json
    assert status["mode"] == "custom-worker"
    assert status["services"]["agents"] is True


def test_the_health_check_finds_the_port_that_the_node_listens_on() -> None:
    with node("--env", "ASTROMESH_PORT=9123", "--env", "ASTROMESH_ROLE=gateway") as container:
        assert ":9123/livez: 200" in docker("exec", container, *HEALTHCHECK).stdout


def test_an_unknown_role_or_profile_ends_with_78_and_lists_what_there_is() -> None:
    code, told = fails(environ="ASTROMESH_ROLE=wroker")
    assert code == 78
    assert all(role in told for role in (*ROLES, "wroker"))
    code, told = fails(environ="ASTROMESH_PROFILE=custom")
    assert code == 78
    assert all(profile in told for profile in (*ROLES, "mesh-worker"))


def test_a_mesh_with_client_keys_and_no_key_of_the_nodes_own_ends_with_78() -> None:
    code, told = fails("--env", "ASTROMESH_ROLE=worker", "--env", "ASTROMESH_API_KEYS=sk-1", environ="ASTROMESH_MESH_ENABLED=true")
    assert code == 78
    assert "mesh-worker.yaml" in told
    assert "ASTROMESH_MESH_KEY" in told
    assert "Traceback" not in told


def test_any_other_command_runs_as_it_is() -> None:
    assert docker("run", "--rm", "astromesh:latest", "sh", "-c", "id -u; pwd").stdout.split() == ["10001", "/app"]


def test_the_command_is_on_the_path_and_writes_a_configuration_where_it_may() -> None:
    told = docker("run", "--rm", *LOCKED_DOWN, "astromesh:latest", "astromeshctl", "init", "--non-interactive", "--output", "/tmp/made")
    assert "wrote /tmp/made/runtime.yaml" in told.stdout


def test_the_image_carries_neither_pip_nor_tests_nor_a_key() -> None:
    command = "ls /app /app/app; python -m pip --version || echo no pip; env"
    told = docker("run", "--rm", "astromesh:latest", "sh", "-c", command).stdout
    assert "no pip" in told
    assert "tests" not in told
    assert "KEY" not in told.upper()
