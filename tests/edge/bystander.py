"""A client that minds its own business beside a hostile one, in a process of its own: `python -m tests.edge.bystander URL`.

Until its standard input closes, and a few times at least, it asks the node to calculate, by turns on a connection that it keeps and on a
new one. Then it prints, as JSON, how many requests it made, the longest in seconds, and what went wrong.
"""

import contextlib
import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

PACE_S = 0.02
LEAST = 5
BODY = json.dumps({"tool_name": "calculator", "arguments": {"expression": "17*23"}})


def ask(connection: http.client.HTTPConnection) -> str:
    """What is wrong with the answer, or ""."""
    connection.request("POST", "/v1/tools/execute", BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    right = response.status == 200 and json.loads(body)["result"]["result"] == 391
    return "" if right else f"{response.status}: {body[:300].decode()}"


def main() -> None:
    address = urlsplit(sys.argv[1])
    kept = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    times, wrong = list[float](), list[str]()
    while not select.select([sys.stdin], [], [], PACE_S)[0] or len(times) < LEAST:
        fresh = len(times) % 2 == 1
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10) if fresh else kept
        began = time.perf_counter()
        try:
            problem = ask(connection)
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
            connection.close()
        times.append(time.perf_counter() - began)
        if problem:
            wrong.append(f"request {len(times)}, on a {'new' if fresh else 'kept'} connection: {problem}")
        if fresh:
            with contextlib.suppress(OSError):
                connection.close()
    sys.stdout.write(json.dumps({"asked": len(times), "longest_s": max(times, default=0.0), "wrong": wrong}))


if __name__ == "__main__":
    main()
