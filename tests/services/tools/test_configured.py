"""The tools that the operator configures, over their paths."""

import asyncio
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from app.call import call
from app.errors import InvalidBody, NotFound
from app.services.tools import Tools
from app.services.tools.builtin.evaluation import evaluate
from app.services.tools.builtin.http_request import HttpRequestSettings
from app.services.tools.builtin.read_file import ReadFile
from app.services.tools.tool import ToolError
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
    assert foreign["error"].endswith("add it to spec.tools.http_request.allow.")
    private = await execute({"http_request": {"allow": ["*"]}}, "http_request", {"url": "http://127.0.0.1/"}, tmp_path)
    assert private["error"].endswith("add its network to spec.tools.http_request.allow_networks.")


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
    assert kinds == {"travel": "folder", "out": "link", "link.md": "link", "image.png": "file", "pipe": "special"}


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
        ("handbook/a\ud800b", "no file has such a name"),
        ("handbook/" + "long" * 100, "file name too long"),
        ("elsewhere/x", "no root 'elsewhere'; there is handbook"),
        ("/etc/passwd", "no root 'etc'"),
    ],
)
async def test_nothing_outside_a_root_is_read(handbook: Path, path: str, told: str) -> None:
    answer = await read(handbook, path)
    assert answer["status"] == "error"
    assert told in answer["error"]


async def test_a_folder_that_turns_into_a_link_and_back_while_it_is_read_leads_nowhere(handbook: Path) -> None:
    """The race that a check of the path before its opening loses: what is read is the file inside, or nothing."""
    (handbook.parent / "rail.md").write_text("secret")
    (handbook / "link").symlink_to(handbook.parent)
    done = Event()

    def swap() -> None:
        travel, link, aside = handbook / "travel", handbook / "link", handbook / "aside"
        while not done.is_set():
            travel.rename(aside)
            link.rename(travel)
            travel.rename(link)
            aside.rename(travel)

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    tool = ReadFile({"handbook": str(handbook)})
    seen = Counter[str]()
    try:
        while seen["Take the train. Nimm den Zug: schön."] < 100 or seen["refused"] < 100:
            try:
                seen[(await tool.run({"path": "handbook/travel/rail.md"}))["text"]] += 1
            except ToolError:
                seen["refused"] += 1
    finally:
        done.set()
        await swapping
    assert "secret" not in seen


async def test_a_file_is_cut_between_characters(handbook: Path) -> None:
    text = "Zürich, 東京 🚄 " * 20
    (handbook / "long.md").write_text(text)
    tool = ReadFile({"handbook": str(handbook)}, max_bytes=7)
    read, offset = "", 0
    while offset is not None:
        piece = await tool.run({"path": "handbook/long.md", "offset": offset})
        read, offset = read + piece["text"], piece.get("next_offset")
    assert read == text


async def test_a_folder_with_very_many_files_says_that_its_list_is_cut(handbook: Path) -> None:
    (handbook / "many").mkdir()
    for number in range(1001):
        (handbook / "many" / str(number)).touch()
    listed = (await read(handbook, "handbook/many"))["result"]
    assert (len(listed["entries"]), listed["truncated"]) == (1000, True)
    (handbook / "many" / "0").unlink()
    assert "truncated" not in (await read(handbook, "handbook/many"))["result"]


async def test_an_offset_that_no_file_has_is_refused(handbook: Path) -> None:
    assert (await read(handbook, "handbook/travel/rail.md", offset=2**53))["result"]["text"] == ""
    with pytest.raises(InvalidBody, match=r"\$.arguments.offset"):
        await read(handbook, "handbook/travel/rail.md", offset=10**30)


async def test_doctor_names_a_root_that_is_not_there(tmp_path: Path) -> None:
    good, gone = tmp_path / "good", tmp_path / "gone"
    good.mkdir()
    service = Tools({"read_file": {"roots": {"good": str(good), "gone": str(gone)}}}, node_context(tmp_path))
    check = (await service.check())["tools.configuration"]
    assert (check.status, check.message) == ("degraded", f"read_file: gone ({gone}): no such file or directory")
    assert "tools.configuration" not in await Tools({}, node_context(tmp_path)).check()


async def test_models_are_told_what_they_may_ask_and_read(tmp_path: Path) -> None:
    service = Tools(
        {"http_request": {"allow": ["api.example", "*.wiki.example"]}, "read_file": {"roots": {"b": "/b", "a": "/a"}}},
        node_context(tmp_path),
    )
    async with mounted(service) as app, call(app, "GET", "/v1/tools") as reply:
        told = {tool["name"]: tool["description"] for tool in (await reply.json())["tools"]}
    assert told["http_request"].endswith("Allowed hosts: api.example, *.wiki.example.")
    assert told["read_file"].endswith("the name of a root: a, b.")


async def test_a_page_of_the_largest_size_fits_whatever_its_script(tmp_path: Path) -> None:
    page = "я" * (HttpRequestSettings().max_bytes // 2)
    async with serve(Router([Route("/page", lambda r: PlainTextResponse(page))])) as url:
        config = {"http_request": {"allow": [url.removeprefix("http://")], "allow_networks": ["127.0.0.0/8"]}}
        answer = await execute(config, "http_request", {"url": f"{url}/page"}, tmp_path)
    assert answer["result"]["body"] == page


DOUBLED = "|".join(["[@,@]"] * 60)
"""Small in memory, and 2^60 elements for who goes through them."""
PEOPLE = {"people": [{"name": "Ada", "age": 36}, {"name": "Kim", "age": 7}]}


@pytest.mark.parametrize(
    ("data", "expression", "result"),
    [
        (PEOPLE, "people[?age > `10`].name", ["Ada"]),
        (json.dumps(PEOPLE), "length(people)", 2),
        ("plain text", "@", "plain text"),
        (PEOPLE, "people[].{who: name}", [{"who": "Ada"}, {"who": "Kim"}]),
        (PEOPLE, "nothing.at.all", None),
        (PEOPLE, "sort_by(people, &age)[*].name | join(', ', @)", "Kim, Ada"),
        (PEOPLE, "people[?name > `10`]", []),
        (PEOPLE, "people[0] == people[1] || people[0].age == `36`", True),
        (list(range(100_000)), "sum([?@ > `10`])", 4_999_950_000 - 55),
    ],
)
async def test_json_is_transformed(tmp_path: Path, data: Any, expression: str, result: Any) -> None:
    assert (await execute({}, "json_transform", {"data": data, "expression": expression}, tmp_path))["result"] == result


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("people[", "does not work"),
        ("nofunction(@)", "does not work"),
        ("avg([`1.5`, `1" + "0" * 400 + "`])", "does not work: "),
        ("ceil(to_number('1e999'))", "does not work: "),
        ("@[::0]", "does not work: slice step cannot be zero"),
        (DOUBLED, "over 1000000 steps"),
        ("|".join(["[@[],@[]][]"] * 60), "over 1000000 steps"),
        (f"{DOUBLED}|to_string(@)", "over 1000000 steps"),
        (f"{{a: {DOUBLED}, b: {DOUBLED}}}|a == b", "over 1000000 steps"),
        ("|".join(["[@[],@[]][]"] * 16) + "|map(&'" + "x" * 500 + "', @)|join('', @)", "over 1000000 steps"),
        ("&a", "JSON cannot carry"),
    ],
)
async def test_an_expression_that_is_wrong_or_endless_is_an_error_soon(tmp_path: Path, expression: str, told: str) -> None:
    answer = await execute({}, "json_transform", {"data": [1], "expression": expression}, tmp_path)
    assert told in answer["error"]


async def test_a_long_text_between_many_is_not_written_out() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match="makes too much"):
            evaluate("join(glue, parts)", {"glue": "x" * 3_000, "parts": ["y"] * 30_000})
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


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


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("", "gave an empty summary"),
        (None, "gave an empty summary"),
        ("word " * 10_000, "makes the text no shorter"),
    ],
)
async def test_a_model_that_cannot_summarise_is_an_error(tmp_path: Path, answer: Any, told: str) -> None:
    async def complete(request: Request) -> Response:
        return JSONResponse({"choices": [{"message": {"content": answer}}]})

    neighbours = Neighbours(inference=Router([Route("/v1/chat/completions", complete, methods=["POST"])]))
    assert told in (await execute({}, "text_summarize", {"text": "word " * 10_000}, tmp_path, neighbours))["error"]


async def test_summaries_that_are_too_long_together_are_summarised_in_turn(tmp_path: Path) -> None:
    asked = list[int]()

    async def halve(request: Request) -> Response:
        text = (await request.json())["messages"][1]["content"]
        asked.append(len(text))
        return JSONResponse({"choices": [{"message": {"content": text[: len(text) // 2]}}]})

    neighbours = Neighbours(inference=Router([Route("/v1/chat/completions", halve, methods=["POST"])]))
    answer = await execute({}, "text_summarize", {"text": "word " * 40_000}, tmp_path, neighbours)
    assert answer["result"]["parts"] == 9
    assert max(asked) <= 24_000
    assert len(answer["result"]["summary"]) <= 12_000


async def test_without_a_model_a_summary_says_so(tmp_path: Path) -> None:
    async def away(request: Request) -> Response:
        raise NotFound("There is no model.")

    neighbours = Neighbours(inference=Router([Route("/v1/chat/completions", away, methods=["POST"])]))
    answer = await execute({}, "text_summarize", {"text": "text"}, tmp_path, neighbours)
    assert "gave no summary: There is no model." in answer["error"]
