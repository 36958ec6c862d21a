"""One member of a kinship mesh: `python kinship_node.py NAME PORT [SEED]`, with the Python of the environment that kinship is in. Prints
what happens, a line each."""

import asyncio
import sys
from collections.abc import Sequence

import kinship  # type: ignore[import-not-found]


async def main(name: str, port: str, seeds: Sequence[str]) -> None:
    configuration = kinship.Config.lan(
        name=name, bind=f"127.0.0.1:{port}", advertise=f"127.0.0.1:{port}", seeds=list(seeds), cluster="bench", insecure_plaintext=True
    )
    async with kinship.Cluster(configuration) as cluster:
        print("listening", flush=True)
        for member in cluster.members():
            print("MemberJoined", member.name, flush=True)
        async for event in cluster.events():
            member = getattr(event, "member", None)
            print(type(event).__name__, member.name if member else "-", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
