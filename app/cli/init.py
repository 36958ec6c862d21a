"""`init`: write a configuration that starts, after a short dialogue or by options alone."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from app.cli.draft import Draft
from app.cli.failure import Failure
from app.cli.invocation import Invocation, reads_files
from app.cli.output import note, show, show_json
from app.cli.written import HOME, shipped, write
from app.config.address import check_node_url, check_url
from app.config.files import examine_path

ROLES = ("standalone", "full", "gateway", "worker", "inference", "mesh-gateway", "mesh-worker", "mesh-inference")
PROVIDERS: Mapping[str, tuple[str, str]] = {
    "none": ("", ""),
    "ollama": ("ollama", "http://127.0.0.1:11434"),
    "vllm": ("vllm", "http://127.0.0.1:8080"),
    "tgi": ("hf_tgi", "http://127.0.0.1:8080"),
    "llamacpp": ("llamacpp", "http://127.0.0.1:8080"),
    "openai": ("openai_compat", "https://api.openai.com/v1"),
}
"""The model servers that can be attached: each one's type in providers.yaml, and where it usually is."""
_DEV_PORTS = {"gateway": 8000, "worker": 8001, "inference": 8002}
"""With --dev the three roles run beside each other on one machine."""
_ASKS = {"gateway": "worker", "worker": "inference"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written. ``profile`` is the shipped one to begin with; ``peer`` the node that this one asks, or joins at."""

    profile: str
    dev: bool
    port: int
    peer: str
    provider: str
    endpoint: str

    @property
    def role(self) -> str:
        return self.profile.removeprefix("mesh-")

    @property
    def meshed(self) -> bool:
        return self.profile.startswith("mesh-")


class _Address(click.ParamType[str]):
    """A URL that one of the node's own checks accepts."""

    name = "url"

    def __init__(self, check: Callable[[str], str]) -> None:
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._check(str(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}; write one like http://127.0.0.1:8001", param, ctx)


_NODE_URL, _SERVER_URL, _PORT = _Address(check_node_url), _Address(check_url), click.IntRange(1, 65535)


@click.command()
@click.option("--dev", is_flag=True, help="For one machine: listen on 127.0.0.1 alone, peers on other ports of it.")
@click.option("--role", type=click.Choice(ROLES), help="What the node is. [default: standalone]")
@click.option("--port", type=_PORT, help="The port to listen on.")
@click.option("--peer", type=_NODE_URL, metavar="URL", help="The node to ask (gateway, worker) or to join at (mesh).")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), help="The model server to attach, where the role has inference.")
@click.option("--endpoint", type=_SERVER_URL, metavar="URL", help="Where the model server is.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("astromesh"), show_default=True, help="Where to write."
)
@click.option("--non-interactive", is_flag=True, help="Ask nothing: what no option says has its default.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@reads_files
def init(said: Invocation, as_json: bool, output: Path, non_interactive: bool, force: bool, **given: Any) -> None:
    """Write a configuration that starts.

    A folder with runtime.yaml, and what the role needs besides it: providers, an example agent, channels.

    At a terminal it asks what no option says. It overwrites nothing without --force.
    """
    if not force and (output / "runtime.yaml").exists():
        raise Failure(
            f"{output / 'runtime.yaml'} is there already, so nothing was written; --force overwrites, --output names another folder."
        )
    plan = _plan(given, asking=sys.stdin.isatty() and not non_interactive and not as_json)
    texts = {output / name: text for name, text in _texts(plan).items()}
    write(texts, force=force)
    wrong = [problem for each in examine_path(output, said.environ) if Path(each.file) in texts for problem in each.problems]
    if wrong:
        raise Failure("what was written does not load:\n" + "\n".join(map(str, wrong)))
    folder, profile, program = (shlex.quote(str(path)) for path in (output, output / "runtime.yaml", HOME / "entrypoint.sh"))
    start = f"ASTROMESH_CONFIG_DIR={folder} ASTROMESH_PROFILE={profile} {program}"
    if as_json:
        show_json({"written": [str(path) for path in texts], "start": start})
        return
    for path in texts:
        show(f"wrote {path}")
    _advise(plan, start)


def _plan(given: Mapping[str, Any], *, asking: bool) -> Plan:
    """The options, completed by what a person answers, or by defaults."""
    dev = bool(given["dev"])
    profile = _profile(given["role"], asking)
    role, meshed = profile.removeprefix("mesh-"), profile.startswith("mesh-")
    port = given["port"] or _answer("Port to listen on", _DEV_PORTS.get(role, 8000) if dev else 8000, _PORT, asking)
    peer = given["peer"] or _peer(role, dev, meshed, asking)
    provider = given["provider"] or "none"
    if role in ("full", "inference"):
        provider = given["provider"] or _answer("Model server (none: built-in rules)", "none", click.Choice(list(PROVIDERS)), asking)
    elif given["provider"]:
        raise click.UsageError(f"--provider is for roles with inference; {role} asks another node for models.")
    endpoint = given["endpoint"] or ""
    if provider != "none" and not endpoint:
        endpoint = _answer("Its address", PROVIDERS[provider][1], _SERVER_URL, asking)
    if endpoint and provider == "none":
        raise click.UsageError("--endpoint needs --provider, which says what kind of server is there.")
    return Plan(profile, dev, port, peer, provider, endpoint)


def _profile(role: str | None, asking: bool) -> str:
    if role is None:
        role = _answer("Role", "standalone", click.Choice([each for each in ROLES if not each.startswith("mesh-")]), asking)
        if asking and role in ("gateway", "worker", "inference") and click.confirm("Find the other nodes by the mesh?", err=True):
            role = f"mesh-{role}"
    return "full" if role == "standalone" else role


def _peer(role: str, dev: bool, meshed: bool, asking: bool) -> str:
    """The address of the node that this one needs; "" where it needs none."""
    other = "gateway" if meshed else _ASKS.get(role)
    if other is None or (meshed and role == "gateway"):
        return ""
    usual = f"http://127.0.0.1:{_DEV_PORTS[other]}" if dev else f"http://{other}:8000"
    question = "Address of a node of the mesh to join at" if meshed else f"Address of the {other} node"
    return str(_answer(question, usual, _NODE_URL, asking))


def _answer(question: str, default: Any, kind: click.ParamType[Any], asking: bool) -> Any:
    return click.prompt(question, default=default, type=kind, err=True) if asking else default


def _texts(plan: Plan) -> dict[str, str]:
    """The files by their names in the folder."""
    texts = {"runtime.yaml": _runtime(plan)}
    if plan.role in ("full", "inference"):
        texts["providers.yaml"] = _providers(plan)
    if plan.role in ("full", "worker"):
        texts["agents/assistant.agent.yaml"] = shipped("agents/assistant.agent.yaml")
    if plan.role in ("full", "gateway"):
        texts["channels.yaml"] = shipped("channels.yaml")
    return texts


def _runtime(plan: Plan) -> str:
    draft = Draft(shipped(f"profiles/{plan.profile}.yaml"), f"{plan.profile}.yaml")
    host = "127.0.0.1" if plan.dev else "0.0.0.0"  # noqa: S104 - what the shipped profiles have
    draft.set(("spec", "api", "host"), f'"{host}"')
    draft.set(("spec", "api", "port"), str(plan.port))
    if plan.meshed:
        draft.set(("spec", "mesh", "bind"), f'"{host}:{plan.port}"')
    if plan.peer:
        draft.set(("spec", "mesh", "seeds", 0) if plan.meshed else ("spec", "peers", 0, "url"), plan.peer)
    return draft.text


def _providers(plan: Plan) -> str:
    draft = Draft(shipped("providers.yaml"), "providers.yaml")
    if plan.provider != "none":
        kind = PROVIDERS[plan.provider][0]
        entry = [f"{plan.provider}:", f"  type: {kind}", f"  endpoint: {plan.endpoint}"]
        draft.insert(("spec", "providers"), [*entry, *(["  api_key_env: OPENAI_API_KEY"] if plan.provider == "openai" else [])])
    return draft.text


def _advise(plan: Plan, start: str) -> None:
    """What to do next."""
    note(f"\nStart it:\n  {start}")
    where = "" if plan.port == 8000 else f" --url http://127.0.0.1:{plan.port}"
    note(
        "Then ask it:\n  "
        + (f'astromeshctl run assistant "What is 17*23?"{where}' if plan.role != "inference" else f"astromeshctl status{where}")
    )
    if not plan.dev:
        note("It listens on every interface: set ASTROMESH_API_KEYS (and ASTROMESH_MESH_KEY for a mesh) before others reach it.")
    if plan.provider == "openai":
        note("Set OPENAI_API_KEY where it runs.")
