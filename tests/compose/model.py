"""A model server for the stack whose nodes are killed, paused and stopped: OpenAI-compatible, one model, stdlib only, run in the image.

Every answer is "first last". Asked to "wait", it gives the last word, or a whole answer, once somebody posts /release (or after a minute).
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 9000
released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "paced", "object": "model", "owned_by": "test"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/release":
            released.set()
            self._answer({})
            return
        asked = json.loads(raw)
        waiting = "wait" in str(asked["messages"][-1]["content"])
        released.clear()
        if asked.get("stream"):
            self._stream(waiting=waiting)
        else:
            if waiting:
                released.wait(60)
            self._answer(completion("chat.completion", message={"role": "assistant", "content": "first last"}, finish_reason="stop"))

    def _stream(self, *, waiting: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._event(completion("chat.completion.chunk", delta={"role": "assistant", "content": "first "}, finish_reason=None))
        if waiting:
            released.wait(60)
        self._event(completion("chat.completion.chunk", delta={"content": "last"}, finish_reason="stop"))
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def completion(kind: str, **choice: Any) -> dict[str, Any]:
    return {"id": "c1", "object": kind, "created": 0, "model": "paced", "choices": [{"index": 0, **choice}]}


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
