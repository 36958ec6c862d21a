"""The tools that the operator configures, over their paths."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from app.call import call
from app.errors import NotFound
from app.services.tools import Tools
from tests.support import Neighbours, mounted, node_context, serve


async def execute(config: Any, tool_name: str, arguments: Any, data_dir: Path, neighbours: Neighbours | None = None) -> Any:
    async with (
        mounted(Tools(config, node_context(data_dir, neighbours))) as app,
        call(app, "POST", "/v1/tools/execute", body={"tool_name": tool_name, "arguments": arguments}) as reply,
    ):
        assert reply.status == 200
        return await reply.json()


@pytest.mark.parametrize(("tool", "arguments"), [("http_request", {"url": "http://example.org/"}), ("read_file", {"path": "etc/passwd"})])
async def test_a_tool_without_its_configuration_is_off_and_says_what_is_missing(tool: str, arguments: Any, tmp_path: Path) -> None:
    answer = await execute({}, tool, arguments, tmp_path)
    assert (answer["status"], answer["result"]) == ("error", None)
    assert f"spec.tools.{tool}." in answer["error"]


async def test_http_request_asks_what_is_allowed_and_nothing_else(tmp_path: Path) -> None:
    async def echo(request: Request) -> Response:
        return JSONResponse({"method": request.method, "body": await request.json()})

    async with serve(Router([Route("/echo", echo, methods=["PUT"]), Route("/image", lambda r: Response(b"\x89PNG\0\0"))])) as url:
        config = {"http_request": {"allow": [url.removeprefix("http://")], "allow_networks": ["127.0.0.0/8"], "methods": ["GET", "PUT"]}}
        put = await execute(config, "http_request", {"url": f"{url}/echo", "method": "PUT", "json": {"a": 1}}, tmp_path)
        image = await execute(config, "http_request", {"url": f"{url}/image"}, tmp_path)
        deleted = await execute(config, "http_request", {"url": f"{url}/echo", "method": "DELETE"}, tmp_path)
        foreign = await execute(config, "http_request", {"url": "http://127.0.0.2:1/"}, tmp_path)
    assert put["result"]["status"] == 200
    assert json.loads(put["result"]["body"]) == {"method": "PUT", "body": {"a": 1}}
    assert image["result"]["body"] == "[6 bytes that are no text]"
    assert "DELETE is not allowed; use GET, PUT" in deleted["error"]
    assert "127.0.0.2:1 may not be asked" in foreign["error"]


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    folder = tmp_path / "handbook"
    (folder / "travel").mkdir(parents=True)
    (folder / "travel" / "rail.md").write_text("Take the train. Nimm den Zug: schön.")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "link.md").symlink_to(tmp_path / "secret.txt")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    os.mkfifo(folder / "pipe")
    return folder


async def read(handbook: Path, path: str, **more: Any) -> Any:
    return await execute(
        {"read_file": {"roots": {"handbook": str(handbook)}, "max_bytes": 16}}, "read_file", {"path": path, **more}, handbook
    )


async def test_a_file_is_read_in_pieces_and_folders_are_listed(handbook: Path) -> None:
    first = (await read(handbook, "handbook/travel/rail.md"))["result"]
    assert (first["text"], first["size"], first["next_offset"]) == ("Take the train. ", 37, 16)
    last = (await read(handbook, "handbook/travel/rail.md", offset=32))["result"]
    assert (last["text"], "next_offset" in last) == ("hön.", False)
    assert (await read(handbook, ""))["result"]["entries"] == [{"name": "handbook", "type": "folder"}]
    kinds = {row["name"]: row["type"] for row in (await read(handbook, "/handbook/"))["result"]["entries"]}
    assert kinds == {"travel": "folder", "out": "link", "link.md": "link", "image.png": "file", "pipe": "file"}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("handbook/../secret.txt", "leads upwards"),
        ("handbook/travel/../../secret.txt", "leads upwards"),
        ("handbook/out/secret.txt", "a link where a folder is wanted"),
        ("handbook/link.md", "links are not followed"),
        ("handbook/pipe", "neither a file nor a folder"),
        ("handbook/image.png", "no text file"),
        ("handbook/none.md", "no such file"),
        ("handbook/a\0b", "leads upwards"),
        ("elsewhere/x", "no root 'elsewhere'; there is handbook"),
        ("/etc/passwd", "no root 'etc'"),
    ],
)
async def test_nothing_outside_a_root_is_read(handbook: Path, path: str, told: str) -> None:
    answer = await read(handbook, path)
    assert answer["status"] == "error"
    assert told in answer["error"]


async def test_a_folder_that_becomes_a_link_leads_nowhere(handbook: Path) -> None:
    """The race that a check of the path before its opening loses."""
    (handbook / "travel" / "rail.md").unlink()
    (handbook / "travel").rmdir()
    (handbook / "travel").symlink_to(handbook.parent)
    assert (await read(handbook, "handbook/travel/secret.txt"))["status"] == "error"


PEOPLE = {"people": [{"name": "Ada", "age": 36}, {"name": "Kim", "age": 7}]}


@pytest.mark.parametrize(
    ("data", "expression", "result"),
    [
        (PEOPLE, "people[?age > `10`].name", ["Ada"]),
        (json.dumps(PEOPLE), "length(people)", 2),
        ("plain text", "@", "plain text"),
        (PEOPLE, "people[].{who: name}", [{"who": "Ada"}, {"who": "Kim"}]),
        (PEOPLE, "nothing.at.all", None),
    ],
)
async def test_json_is_transformed(tmp_path: Path, data: Any, expression: str, result: Any) -> None:
    assert (await execute({}, "json_transform", {"data": data, "expression": expression}, tmp_path))["result"] == result


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("people[", "does not work"),
        ("nofunction(@)", "does not work"),
        ("|".join(["[@,@]"] * 60), "over 100000 elements"),
        ("|".join(["[@[],@[]][]"] * 60), "too many steps, or makes too much"),
    ],
)
async def test_an_expression_that_is_wrong_or_endless_is_an_error_soon(tmp_path: Path, expression: str, told: str) -> None:
    answer = await execute({}, "json_transform", {"data": [1], "expression": expression}, tmp_path)
    assert told in answer["error"]


class Model:
    """An inference service that notes what it is asked, and answers with the number of the question."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return JSONResponse({"choices": [{"message": {"content": f"summary {len(self.asked)}"}}]})


async def test_a_text_is_summarised_by_the_configured_model_part_by_part(tmp_path: Path) -> None:
    model = Model()
    neighbours = Neighbours(inference=Router([Route("/v1/chat/completions", model.complete, methods=["POST"])]))
    config = {"text_summarize": {"model": "small"}}
    short = await execute(config, "text_summarize", {"text": "A short text.", "max_words": 7}, tmp_path, neighbours)
    assert short["result"] == {"summary": "summary 1", "parts": 1, "characters": 13}
    assert model.asked[0]["model"] == "small"
    assert "7 words" in model.asked[0]["messages"][0]["content"]
    long = await execute(config, "text_summarize", {"text": "word " * 10_000}, tmp_path, neighbours)
    assert long["result"]["parts"] == 3
    assert long["result"]["summary"] == "summary 5"
    parts = "".join(asked["messages"][1]["content"] for asked in model.asked[1:4])
    assert parts == "word " * 10_000  # nothing is lost at the cuts


async def test_without_a_model_a_summary_says_so(tmp_path: Path) -> None:
    async def away(request: Request) -> Response:
        raise NotFound("There is no model.")

    neighbours = Neighbours(inference=Router([Route("/v1/chat/completions", away, methods=["POST"])]))
    answer = await execute({}, "text_summarize", {"text": "text"}, tmp_path, neighbours)
    assert "gave no summary: There is no model." in answer["error"]
