"""The shipped Compose stack as tests drive it: under a project name of its own, on a free port, with bounded waits, always taken down."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent
HEALTHCHECK = ("python", "-I", "-S", "/app/app/healthcheck.py")
QUESTION = "What is 17*23, and what time is it in Tokyo?"
_FROM_OUTSIDE = ("ASTROMESH_", "COMPOSE_", "OLLAMA_", "VLLM_", "TGI_", "OPENAI_")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def code(self) -> str:
        """The code of an error in the one shape; fails on any other body."""
        assert set(self.json["error"]) == {"message", "type", "code", "param"}, self.json
        return str(self.json["error"]["code"])


@contextmanager
def opened(url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
    """Send a request (POST of JSON, or GET without a body) and yield the response as soon as its status is there."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        connection.request("GET" if body is None else "POST", path, body if isinstance(body, bytes | None) else json.dumps(body), sent)
        yield connection.getresponse()
    finally:
        connection.close()


def ask(url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    with opened(url, path, body, headers) as response:
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(response.read()))


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """The first true value of ``condition``, asked again and again; what cannot be connected to is not true yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (OSError, HTTPException, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


def docker(*arguments: str, check: bool = True, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(("docker", *arguments), check=False, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def healthy(container: str) -> bool:
    """Whether the image's own health check is content."""
    return docker("exec", container, *HEALTHCHECK, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Stack:
    """One Compose project. ``files`` are added to the shipped docker-compose.yaml; ``environ`` is what a person sets around it;
    ``env_file`` is what they name by --env-file."""

    files: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    env_file: str = os.devnull
    project: str = field(default_factory=lambda: f"astromesh-test-{secrets.token_hex(4)}")

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run docker compose on this project, untouched by what the environment of the tests holds."""
        files = [part for file in ("docker-compose.yaml", *self.files) for part in ("-f", file)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_FROM_OUTSIDE)}
        command = (
            "docker",
            "compose",
            "--env-file",
            self.env_file,
            "--project-directory",
            str(ROOT),
            "-p",
            self.project,
            *files,
            *arguments,
        )
        environ |= {"ASTROMESH_PUBLISH_PORT": "0", **self.environ}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environ)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def container(self, service: str, number: int = 1) -> str:
        return f"{self.project}-{service}-{number}"

    def container_at(self, service: str, url: str, scale: int) -> str:
        """The one of a service's containers that has the address in a URL."""
        wanted = urlsplit(url).hostname
        for number in range(1, scale + 1):
            container = self.container(service, number)
            addresses = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", container).stdout
            if wanted in addresses.split():
                return container
        raise AssertionError(f"no {service} has {url}")

    def url(self, service: str = "gateway", port: int = 8000) -> str:
        """Where a published port is on this machine; it changes when the container starts again."""
        return "http://" + self.compose("port", service, str(port)).stdout.strip()

    def wait_listening(self, service: str) -> None:
        wait_until(lambda: healthy(self.container(service)), f"{service} listens")

    def wait_answering(self) -> None:
        """Until a question goes all the way: the nodes have found each other."""
        url = self.url()
        wait_until(lambda: run(url, "hello").status == 200, "the stack answers")

    def members(self, url: str = "") -> dict[str, str]:
        """By address: the status that the gateway (or the node at ``url``) gives each member of the mesh."""
        return {node["url"]: node["status"] for node in ask(url or self.url(), "/v1/mesh/state").json["nodes"]}

    def exit_code(self, service: str) -> int:
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.container(service)).stdout)

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "60").stdout


def run(url: str, query: str, session: str | None = None) -> Answer:
    """Ask the shipped agent."""
    body = {"query": query, **({"session_id": session} if session else {})}
    return ask(url, "/v1/agents/assistant/run", body)


@contextmanager
def stack(*files: str, start: bool = True, workers: int = 1, env_file: str = os.devnull, **environ: str) -> Iterator[Stack]:
    """The stack, up and answering (or only created), for the time of the block; its logs are shown when the block fails."""
    made = Stack(files, environ, env_file)
    try:
        made.compose("up", "--no-build", "--detach" if start else "--no-start", "--scale", f"worker={workers}")
        if start:
            made.wait_answering()
        yield made
    except BaseException as failure:
        failure.add_note(made.logs())
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "0", check=False)
