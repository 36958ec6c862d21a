"""Where the seeds are, and how others reach this node: looked up again and again, since both change."""

import asyncio
import logging

from app.config.profile import MeshSettings
from app.mesh.address import addresses, each_address, host_of, is_loopback, node_url, own_address
from app.mesh.loop import Loop
from app.mesh.members import Member, Status

LOOK_S = 10.0
ALONE_S = 1.0
"""Seconds between looks, and between those of a node that knows nobody."""
log = logging.getLogger("app.mesh")


class Addresses:
    """``fixed``: the address is given, and not to be found out."""

    def __init__(self, loop: Loop, settings: MeshSettings, *, fixed: bool) -> None:
        self._loop, self._seeds, self._fixed = loop, settings.seeds, fixed
        self.fails = False
        """Whether somebody has said that the address does not answer."""

    async def keep(self, host: str, port: int) -> None:
        """Look now and then until cancelled; ``host`` and ``port`` are where the node listens."""
        while True:
            await asyncio.sleep(LOOK_S if self._loop.maia.view.others else ALONE_S)
            await self.look_up(host, port)

    async def look_up(self, host: str, port: int) -> None:
        urls, ips = list[str](), list[str]()
        for seed in self._seeds:
            found = await addresses(seed)
            ips += found
            urls += each_address(seed, found)
        self._loop.update_seeds(dict.fromkeys(urls))
        if self._fixed:
            return
        if not ips:
            ips = [ip for member in self._unreached()[:3] for ip in await addresses(member.url)]
        own = host if host not in ("0.0.0.0", "::") else own_address(ips)  # noqa: S104
        if is_loopback(own) and any(not is_loopback(ip) and own_address([ip]) != ip for ip in ips):
            if not self.fails:
                self.fails = True
                log.warning("this node listens on %s alone, which no other machine reaches; set ASTROMESH_HOST=0.0.0.0", own)
            return
        if own and node_url(own, port) != self._loop.maia.view.me.url:
            self._take(node_url(own, port))

    def learn(self, dialed: str, came_from: str) -> None:
        """A node without seeds takes the address at which a joiner reached it, and a better one where the first proves to be of no use."""
        mine = self._loop.maia.view.me.url
        if self._fixed or self._seeds or not dialed or dialed == mine:
            return
        if is_loopback(host_of(dialed)) and not is_loopback(came_from):
            return  # a forwarded port, which no other node can call
        if not mine or self.fails or (is_loopback(host_of(mine)) and not is_loopback(host_of(dialed))):
            self._take(dialed)

    def _unreached(self) -> list[Member]:
        """The others, where none of them reaches this node at its address: that may have changed."""
        others = [each for each in self._loop.maia.view.others if each.status is Status.ALIVE]
        return others if all(each.told_unreachable for each in others) else []

    def _take(self, url: str) -> None:
        log.info("other nodes reach this one at %s", url)
        self.fails = False
        self._loop.update_own(url=url)
