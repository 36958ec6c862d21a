"""The two ends of the whole, in one process that runs in the image: a model server that reads what tools found, and a Graph API.

The model asks for both tools at once, and answers with what they gave. A question with "wait" is held before that answer until somebody
posts /release. GET /seen tells what was sent, and how many answers are held.
"""

import json
import re
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 9000
released = threading.Event()
seen: dict[str, Any] = {"sent": [], "held": 0, "embedded": 0}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "owned_by": "test"} for name in ("scripted", "embedder")]
        self._answer(seen if self.path == "/seen" else {"object": "list", "data": models})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw or b"{}")
        if self.path == "/release":
            released.set()
            self._answer({})
        elif self.path == "/v1/embeddings":
            seen["embedded"] += len(body["input"])
            rows = [{"object": "embedding", "index": at, "embedding": embed(text)} for at, text in enumerate(body["input"])]
            self._answer({"object": "list", "data": rows, "model": body["model"]})
        elif self.path == "/v1/chat/completions":
            self._answer(completion(self._message(body["messages"], body.get("tools", []))))
        else:
            self._take(body)

    def _message(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
        if "knowledge_search" not in {tool["function"]["name"] for tool in tools}:
            return {"content": "Hello."}
        asked = max(at for at, message in enumerate(messages) if message["role"] == "user")
        question, results = messages[asked]["content"], [json.loads(m["content"]) for m in messages[asked:] if m["role"] == "tool"]
        if not results:
            wanted = {"knowledge_search": {"query": "shipping fee"}, "calculator": {"expression": "12*4"}}
            return {"content": None, "tool_calls": [call(*each) for each in wanted.items()]}
        if "wait" in question:
            seen["held"] += 1
            released.wait(60)
        passage = next(result["results"][0] for result in results if "results" in result)
        total = next(result["result"] for result in results if "expression" in result)
        return {"content": f"{passage['text']} For four that is {total} ({passage['source']['document_id']})."}

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("type") == "text":
            seen["sent"].append({"to": body["to"], "text": body["text"]["body"]})
        self._answer({"messaging_product": "whatsapp", "messages": [{"id": f"wamid.{len(seen['sent'])}"}]})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def embed(text: str) -> list[float]:
    vector = [0.0] * 64
    for word in re.findall(r"\w+", text.lower()):
        vector[int(sha256(word.encode()).hexdigest(), 16) % 64] += 1.0
    return vector


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def completion(message: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "c1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice], "usage": usage}


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
