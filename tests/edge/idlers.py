"""Opens connections and asks nothing on them, in a process of its own: `python -m tests.edge.idlers URL COUNT [HALF_A_HEAD]`.

Prints a line once all are open, and keeps them until its standard input closes.
"""

import resource
import socket
import sys
from urllib.parse import urlsplit

HALF = b"GET /v1/tools HTTP/1.1\r\nHost: no"


def main() -> None:
    address, count = urlsplit(sys.argv[1]), int(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = list[socket.socket]()
    for _ in range(count):
        held.append(socket.create_connection((address.hostname, address.port), timeout=10))
        if sys.argv[3:]:
            held[-1].sendall(HALF)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
