"""The container's health check: ask /livez where the node wrote that it listens; exit 0 when it answers 200.

A program of its own (`python -I -S app/healthcheck.py`) that imports nothing of the node and little else: it runs every few seconds.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0


def address(url: str) -> tuple[str, int]:
    """Host and port of "http://host:port"; an IPv6 host stands in brackets."""
    host, _, port = url.strip().removeprefix("http://").rstrip("/").rpartition(":")
    return host.strip("[]"), int(port)


def status_line(host: str, port: int) -> str:
    """The first line of the answer to GET /livez, without its version ("200 OK")."""
    with socket.create_connection((host, port), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(f"GET /livez HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.readline(200).decode("latin-1").strip().partition(" ")[2]


def main() -> int:
    written = os.path.join(os.environ.get("TMPDIR") or "/tmp", "astromesh.url")  # noqa: S108
    try:
        with open(written, encoding="utf-8") as file:
            url = file.read()
        status = status_line(*address(url))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"the node does not answer: {error}\n")
        return 1
    sys.stdout.write(f"{url.strip()}/livez: {status}\n")
    return 0 if status.startswith("200") else 1


if __name__ == "__main__":
    sys.exit(main())
