"""A small network of kernel namespaces: a hub with a bridge, and places on it, each with an address and packet filters of its own.

All traffic stays inside. Names carry the id of the process that made them, so that what an aborted run left behind is known and taken away.
"""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "astromesh-test-"
NAMES = Path("/run/netns")
SUBNET = "10.77.0.0/16"
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str, check: bool = True) -> str:
    return _call("ip", *arguments, check=check)


def _call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Place:
    """One namespace on the bridge. What is cut, lost or slowed here is so until ``mend``."""

    namespace: str
    hub: str
    port: str
    """The bridge's end of its line."""
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Put before a command, runs it here."""
        return ("ip", "netns", "exec", self.namespace)

    def deafen(self, *others: "Place", rule: str = "") -> None:
        """Drop what comes from the others; ``rule`` narrows it by iptables' own words."""
        for other in others:
            self._filter("-A", "INPUT", "-s", other.address, *rule.split(), "-j", "DROP")

    def refuse_connections(self, other: "Place") -> None:
        """Drop what comes from the other one over connections that it opens, or has opened, to the node here: the way back still works."""
        self.deafen(other, rule="-p tcp --dport 8000")

    def lose(self, share: float, *others: "Place") -> None:
        """Drop this share of the packets that come from the others, at random."""
        self.deafen(*others, rule=f"-m statistic --mode random --probability {share}")

    def slow_down(self, rate: str) -> None:
        """Both directions of the line are this slow (like 64kbit), each behind a queue that holds a second."""
        for namespace, device in ((self.namespace, "eth0"), (self.hub, self.port)):
            self._tc(namespace, device, "add", "tbf", "rate", rate, "burst", "3kb", "latency", "1s")

    def mend(self) -> None:
        self._filter("-F", "INPUT")
        for namespace, device in ((self.namespace, "eth0"), (self.hub, self.port)):
            if "tbf" in _call("tc", "-n", namespace, "qdisc", "show", "dev", device):
                self._tc(namespace, device, "del")

    def pull_plug(self) -> None:
        """From now on nothing goes in or out, and nobody is told."""
        ip("-n", self.hub, "link", "set", self.port, "down")

    def plug_in(self) -> None:
        ip("-n", self.hub, "link", "set", self.port, "up")

    def move(self, address: str) -> None:
        """Give the place another address in the stead of its own."""
        ip("-n", self.namespace, "addr", "del", f"{self.address}/16", "dev", "eth0")  # first: it takes along what is added in its network
        ip("-n", self.namespace, "addr", "add", f"{address}/16", "dev", "eth0")
        self.address = address

    def _filter(self, *arguments: str) -> None:
        _call(*self.inside, "iptables", "-w", *arguments)

    @staticmethod
    def _tc(namespace: str, device: str, verb: str, *words: str) -> None:
        _call("tc", "-n", namespace, "qdisc", verb, "dev", device, "root", *words)


class Network:
    """``place`` makes the namespace of a name, or finds it again. Ask from the hub, by sockets of ``hub_socket``."""

    def __init__(self) -> None:
        self._tag = f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}-"
        self.hub = Place(f"{self._tag}hub", f"{self._tag}hub", "bridge", "10.77.0.1")
        self._places: dict[str, Place] = {}

    def open(self) -> None:
        ip("netns", "add", self.hub.namespace)
        ip("-n", self.hub.namespace, "link", "add", "bridge", "type", "bridge")
        self._bring_up(self.hub, "bridge")

    def place(self, name: str) -> Place:
        if name not in self._places:
            number = len(self._places) + 1
            made = Place(f"{self._tag}{name}", self.hub.namespace, f"to-{number}", f"10.77.{number}.1")
            ip("netns", "add", made.namespace)
            ends = ("eth0", "netns", made.namespace, "type", "veth", "peer", "name", made.port, "netns", made.hub)
            ip("link", "add", *ends)
            ip("-n", made.hub, "link", "set", made.port, "master", "bridge", "up")
            self._bring_up(made, "eth0")
            self._places[name] = made
        return self._places[name]

    @staticmethod
    def _bring_up(place: Place, device: str) -> None:
        ip("-n", place.namespace, "link", "set", "lo", "up")
        ip("-n", place.namespace, "addr", "add", f"{place.address}/16", "dev", device)
        ip("-n", place.namespace, "link", "set", device, "up")

    def hub_socket(self, info: tuple[Any, ...] = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) -> socket.socket:
        """A socket that belongs to the hub, wherever it is used: the thread steps inside for as long as it makes it."""
        with open("/proc/thread-self/ns/net") as home, open(NAMES / self.hub.namespace) as there:
            _enter(there.fileno())
            try:
                return socket.socket(*info[:3])
            finally:
                _enter(home.fileno())

    def remove(self) -> None:
        _remove(self._tag)


def _enter(namespace: int) -> None:
    new_net = 0x40000000
    if _libc.setns(namespace, new_net) != 0:
        raise OSError(ctypes.get_errno(), "cannot step into the network namespace")


def _remove(beginning: str) -> None:
    """Take namespaces away, with the processes inside."""
    for found in sorted(NAMES.glob(f"{beginning}*")):
        for pid in ip("netns", "pids", found.name, check=False).split():
            os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", found.name, check=False)


def remove_leftovers() -> None:
    """What runs left behind whose process is no more."""
    for found in NAMES.glob(f"{PREFIX}*-hub"):
        maker = found.name.removeprefix(PREFIX).split("-")[0]
        if not Path(f"/proc/{maker}").exists():
            _remove(f"{PREFIX}{maker}-")


@contextmanager
def network() -> Iterator[Network]:
    """A network for the time of the block."""
    remove_leftovers()
    made = Network()
    try:
        made.open()
        yield made
    finally:
        made.remove()
