"""Opens connections and asks nothing on them, in a process of its own: `python -m tests.edge.idlers URL COUNT [HALF_A_HEAD]`.

Prints a line once all are open, and keeps them until its standard input closes. It opens them no faster than the node takes them:
connections that wait in the kernel's queue are not the node's, and where that is full the kernel makes everybody wait for a second.
"""

import http.client
import resource
import socket
import sys
from urllib.parse import SplitResult, urlsplit

AT_ONCE = 250
HALF = b"GET /v1/tools HTTP/1.1\r\nHost: no"


def ask(address: SplitResult) -> None:
    """Be answered, which comes after all that were there before have been taken."""
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    connection.close()


def main() -> None:
    address, count = urlsplit(sys.argv[1]), int(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = list[socket.socket]()
    for _ in range(count):
        held.append(socket.create_connection((address.hostname, address.port), timeout=10))
        if sys.argv[3:]:
            held[-1].sendall(HALF)
        if len(held) % AT_ONCE == 0:
            ask(address)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
