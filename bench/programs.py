"""What is measured, as programs: the node, and its rivals as a person would set them up, with the same log level and one worker each."""

import shutil
import sys
from pathlib import Path

import yaml

from bench.process import ROOT, Program, free_port

PATH = "/v1/chat/completions"


def node_of_role(role: str, folder: Path) -> Program:
    """A node as it is shipped, with its own log to stderr."""
    return _node(f"node, {role}", folder, ASTROMESH_ROLE=role)


def gateway(folder: Path, model_url: str, log_level: str) -> Program:
    """A node without inference, and with one peer that has it."""
    services = {"api": True, "observability": True} | dict.fromkeys(("agents", "inference", "memory", "tools", "channels", "rag"), False)
    document = {
        "apiVersion": "astromesh/v1",
        "kind": "RuntimeConfig",
        "metadata": {"name": "forwarder"},
        "spec": {
            "api": {"host": "127.0.0.1", "port": 8000},
            "services": services,
            "peers": [{"name": "model", "url": model_url, "services": ["inference"]}],
        },
    }
    profile = folder / "forwarder.yaml"
    profile.write_text(yaml.safe_dump(document))
    return _node("Astromesh gateway", folder, ASTROMESH_PROFILE=str(profile), ASTROMESH_LOG_LEVEL=log_level)


def knowledge(folder: Path, embedding_url: str) -> Program:
    """A full node with the built-in rules and a server of embeddings, which may take its time."""
    profile, providers = folder / "knowledge.yaml", folder / "providers.yaml"
    document = yaml.safe_load((ROOT / "config" / "profiles" / "full.yaml").read_text())
    document["spec"]["rag"] = {"embedding_batch": 16, "embedding_timeout_s": 600}
    profile.write_text(yaml.safe_dump(document))
    head = {"apiVersion": "astromesh/v1", "kind": "ProviderConfig", "metadata": {"name": "providers"}}
    providers.write_text(yaml.safe_dump({**head, "spec": {"providers": {"builtin": {"type": "builtin"}}}}))
    settings = {"ASTROMESH_PROFILE": str(profile), "ASTROMESH_CONFIG_DIR": str(folder), "OPENAI_BASE_URL": embedding_url}
    return _node("node with knowledge", folder, **settings)


def embedding() -> Program:
    """One thread for each request: the library for matrices has its threads wait for one another, which costs most on a busy machine."""
    port = free_port()
    command = (sys.executable, "-m", "bench.embedding", str(port))
    return Program("the server of embeddings", command, port, "/v1/models", {"OPENBLAS_NUM_THREADS": "1"})


def _node(name: str, folder: Path, **environ: str) -> Program:
    port = free_port()
    environ |= {
        "ASTROMESH_HOST": "127.0.0.1",
        "ASTROMESH_PORT": str(port),
        "ASTROMESH_DATA_DIR": str(folder / "data"),
        "TMPDIR": str(folder),
    }
    return Program(name, (sys.executable, "-m", "app"), port, "/readyz", environ)


def model() -> Program:
    port = free_port()
    return Program("the model server", (sys.executable, "-m", "bench.model", str(port)), port, "/v1/system/status")


def naive(model_url: str) -> Program:
    port = free_port()
    return Program("naive forwarder", (sys.executable, "-m", "bench.naive", str(port), model_url), port, "/readyz")


def nginx(folder: Path, model_url: str) -> Program | None:
    """nginx as a reverse proxy, or None where it is not installed."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if binary is None:
        return None
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(port=port, model=model_url.removeprefix("http://"), folder=folder))
    command = (binary, "-p", str(folder), "-e", "stderr", "-c", str(configuration))
    return Program("nginx", command, port, "/v1/system/status")


# Unbuffered, or an answer's words would not arrive as they come; the keep-alive limits are lifted, as the others have none.
_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    error_log stderr error;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    keepalive_requests 100000000;
    upstream model {{ server {model}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
