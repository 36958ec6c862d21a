"""Reading files: what text they give, and what becomes of those that would take a node along."""

import asyncio
import io
import os
import time
from pathlib import Path

import pytest
from pypdf import PdfWriter

from app.errors import NodeError, UnreadableDocument, UnsupportedMediaType
from app.services.rag.reading import Bounds, Reader, Reading
from tests.reading.pdfs import built, pdf, unpacking

SLOW = b"<b>x</b>" * 1_000_000
"""A page that takes many seconds."""
TIGHT = Bounds(memory_bytes=200 << 20, cpu_s=2, wall_s=20, text_chars=10_000)


async def read(data: bytes, filename: str = "", content_type: str = "", bounds: Bounds | None = None) -> Reading:
    return await Reader(bounds).read(data, filename=filename, content_type=content_type)


async def html(page: str, bounds: Bounds | None = None) -> str:
    return (await read(page.encode(), "page.html", bounds=bounds)).text


async def refusal(data: bytes, filename: str, content_type: str = "", bounds: Bounds | None = None) -> NodeError:
    with pytest.raises((UnreadableDocument, UnsupportedMediaType)) as raised:
        await read(data, filename, content_type, bounds)
    return raised.value


@pytest.mark.parametrize(
    ("data", "content_type", "encoding"),
    [
        ("Grüße, 世界".encode(), "", None),
        ("Grüße, 世界".encode("utf-8-sig"), "", None),
        ("Grüße, 世界".encode("utf-16"), "", "utf-16-le"),
        (b"\xfe\xff" + "Grüße, 世界".encode("utf-16-be"), "", "utf-16-be"),
        ("Grüße, 世界".encode("utf-32"), "", "utf-32-le"),
        ("Grüße".encode("utf-16-le"), "", "utf-16-le"),
        ("Grüße".encode("utf-16-be"), "", "utf-16-be"),
        ("Grüße".encode("latin-1"), "", "cp1252"),
        ("Grüße\x81".encode("latin-1"), "", "latin-1"),
        ("Grüße".encode("cp850"), "text/plain; charset=cp850", "cp850"),
        ("Grüße".encode("latin-1"), "text/plain; charset=no-such", "cp1252"),
        ("Grüße".encode(), "text/plain; charset=punycode", None),
    ],
)
async def test_the_encoding_of_a_text_is_found_and_told(data: bytes, content_type: str, encoding: str | None) -> None:
    found = await read(data, "notes.txt", content_type)
    assert found.text.startswith("Grüße")
    assert "世" not in data.decode("utf-8", "ignore") or "世界" in found.text
    assert found.metadata.get("encoding") == encoding


async def test_lines_end_in_one_way() -> None:
    assert (await read(b"a\r\nb\rc\n", "a.txt")).text == "a\nb\nc\n"


async def test_the_front_matter_of_markdown_is_metadata() -> None:
    found = await read(b"---\ntitle: Guide\ntags: [a, b]\nsince: 2024-01-02\n---\n\n# Guide\n\nText.\n", "guide.md")
    assert found == Reading("# Guide\n\nText.\n", {"title": "Guide", "tags": ["a", "b"], "since": "2024-01-02"})


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("front", ["no mapping", "- a\n- b", "a: [", "a: 1\na: 2", BOMB, "", "n: 1" + "0" * 90])
async def test_what_is_no_front_matter_stays_in_the_text(front: str) -> None:
    text = f"---\n{front}\n---\n\nText.\n"
    assert await read(text.encode(), "guide.md") == Reading(text, {})


async def test_a_page_becomes_markdown() -> None:
    page = """<!doctype html><html><head><title>The  Guide</title><style>p {color: red}</style></head>
    <body><nav>Home | About</nav><h1>Install <em>it</em></h1><p>First,
    <b>get</b> it.<br>Then run it.</p><script>alert(1)</script>
    <p hidden>secret</p><div style="display: none">more secret</div><!-- a comment -->
    <h2>Steps</h2><ol><li>One<ul><li>inner</li><li><p>second inner</p></li></ul></li><li>Two</li></ol>
    <table><caption>Sizes</caption><tr><th>Name</th><th>Size</th></tr><tr><td>a|b</td><td>1 &lt; 2</td></tr></table>
    <pre>
def f():
    return "x"
</pre><img alt="A picture"><p>Bye&nbsp;now &#x1F44D;</p></body></html>"""
    found = await read(page.encode(), "index.html")
    assert found.metadata == {"title": "The Guide"}
    assert found.text == (
        "# Install it\n\nFirst, get it.\nThen run it.\n\n## Steps\n\n1. One\n  - inner\n  - second inner\n2. Two\n\nSizes\n\n"
        '| Name | Size |\n| --- | --- |\n| a\\|b | 1 < 2 |\n\n```\ndef f():\n    return "x"\n```\n\nA picture\n\nBye now \U0001f44d'
    )


async def test_a_page_without_closing_tags_loses_nothing() -> None:
    text = await html("<head><title>T</title><body><h2>H<p>one<p>two<ul><li>a<li>b</ul><table><tr><td>1<td>2<tr><td>3<td>4</table>end")
    assert " ".join(text.split()) == "## H one two - a - b | 1 | 2 | | --- | --- | | 3 | 4 | end"


async def test_the_charset_of_a_page_is_that_of_its_header_else_its_own() -> None:
    page = "<meta charset=iso-8859-2><p>Łódź"
    assert (await read(page.encode("iso-8859-2"), "a.html")).text == "Łódź"
    assert (await read("<p>Łódź".encode("iso-8859-2"), "", "text/html; charset=iso-8859-2")).text == "Łódź"


async def test_the_pages_of_a_pdf_are_read_in_their_order() -> None:
    found = await read(pdf(["First page.\nOf two lines (at least).", "Zweite für alle."], "A title"), "paper.pdf", "application/pdf")
    assert found == Reading("First page.\nOf two lines (at least).\n\nZweite für alle.", {"pages": 2, "title": "A title"})


async def test_a_pdf_is_one_whatever_it_is_called() -> None:
    assert (await read(pdf(["Text."]), "notes.txt", "text/plain")).text == "Text."


def encrypted(password: str, algorithm: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["Secret."])))
    writer.encrypt(password, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


async def test_a_pdf_that_needs_a_password_is_refused_with_the_remedy_and_one_that_does_not_is_read() -> None:
    error = await refusal(encrypted("word", "RC4-128"), "a.pdf")
    assert (error.status, error.code) == (422, "unreadable_document")
    assert error.message == "The file 'a.pdf' is encrypted; save it without a password (`qpdf --decrypt in.pdf out.pdf`)."
    assert (await read(encrypted("", "RC4-128"), "a.pdf")).text == "Secret."


async def test_a_pdf_of_pictures_alone_is_refused_with_the_remedy() -> None:
    error = await refusal(pdf(["", ""]), "scan.pdf")
    assert "has no text in its 2 pages, only pictures perhaps; have its text recognised first (`ocrmypdf" in error.message


@pytest.mark.parametrize(
    ("data", "filename", "content_type", "told"),
    [
        (b"PK\3\4", "a.docx", "", "is of no type that its name or its sender told"),
        (b"PK\3\4", "a.docx", "application/vnd.openxmlformats", "is of the type 'application/vnd.openxmlformats'"),
        (b"x", "", "", "The file is of no type"),
        (b"{}", "a.json", "application/json", "taken are text (.txt, .text, .log, .rst), Markdown (.md, .markdown), HTML"),
    ],
)
async def test_a_file_of_another_type_is_refused_by_name(data: bytes, filename: str, content_type: str, told: str) -> None:
    error = await refusal(data, filename, content_type)
    assert (error.status, error.code) == (415, "unsupported_media_type")
    assert told in error.message


@pytest.mark.parametrize(
    ("data", "filename", "told"),
    [
        (b"\x89PNG\0\0\1", "a.txt", "is no text: it has NUL characters"),
        (b" \n", "a.txt", "has no text; send a file that is not empty"),
        (b"", "a.md", "has no text"),
        (b"", "a.pdf", "cannot be read as PDF"),
        (b"<script>x</script>", "a.html", "has no text; what scripts would show"),
        (pdf(["Text."])[:200], "a.pdf", "cannot be read as PDF ("),
        (pdf([]), "a.pdf", "has no pages"),
        (b"%PDF-1.4\nnothing", "a.pdf", "cannot be read as PDF"),
    ],
)
async def test_a_file_without_text_is_refused_with_the_reason(data: bytes, filename: str, told: str) -> None:
    error = await refusal(data, filename)
    assert (error.status, error.code) == (422, "unreadable_document")
    assert told in error.message


async def test_a_pdf_that_unpacks_without_end_is_refused() -> None:
    assert "unpacks to more than a document should" in (await refusal(unpacking(400_000_000), "bomb.pdf")).message


async def test_a_file_that_needs_more_memory_than_it_may_have_is_refused() -> None:
    page = "<p>" + "x" * 80_000_000
    assert "needs more than 200 MiB of memory" in (await refusal(page.encode(), "bomb.html", bounds=TIGHT)).message


async def test_a_file_that_takes_more_time_than_it_may_have_is_refused() -> None:
    assert "took more than 1 s of processor time" in (await refusal(SLOW, "slow.html", bounds=Bounds(cpu_s=1))).message
    assert "took longer than 0.2 s to be read" in (await refusal(SLOW, "slow.html", bounds=Bounds(wall_s=0.2))).message


async def test_a_file_with_more_text_than_it_may_have_is_refused() -> None:
    assert "has 10001 characters of text, more than 10000" in (await refusal(b"x" * 10_001, "long.html", bounds=TIGHT)).message


async def test_a_page_nested_as_deep_as_it_is_long_is_read() -> None:
    assert await html("<div>" * 100_000 + "deep" + "</div>" * 100_000) == "deep"
    assert "- deep" in await html("<ul><li>" * 20_000 + "deep")


async def test_an_array_nested_as_deep_as_a_pdf_is_long_ends_in_an_error_or_the_text() -> None:
    page = built([b"BT /F1 12 Tf (x) Tj " + b"[" * 100_000 + b" ET"])
    assert (await refusal(page, "deep.pdf")).status == 422


async def begun(reading: asyncio.Task[Reading]) -> list[str]:
    """The children, once there are any."""
    while True:
        if (children := own_children()) or reading.done():
            return children
        await asyncio.sleep(0.001)


def own_children() -> list[str]:
    """The processes that are reading for this one."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [child for child in listed if b"app.reading" in of_process(child, "cmdline")]


def of_process(process: str, what: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{what}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def test_a_reading_that_is_cancelled_leaves_no_process() -> None:
    reading = asyncio.create_task(read(SLOW, "slow.html"))
    children = await begun(reading)
    assert children
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not own_children()


async def test_no_more_children_than_agreed_run_at_once() -> None:
    reader, most = Reader(at_once=2), 0
    readings = [asyncio.create_task(reader.read(b"<p>x", filename="a.html")) for _ in range(6)]
    deadline = time.monotonic() + 30
    while not all(each.done() for each in readings) and time.monotonic() < deadline:
        most = max(most, len(own_children()))
        await asyncio.sleep(0.001)
    assert [(await each).text for each in readings] == ["x"] * 6
    assert 1 <= most <= 2


async def test_a_child_is_given_nothing_of_the_nodes_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTROMESH_MESH_KEY", "sk-secret")
    reading = asyncio.create_task(read(SLOW, "slow.html"))
    children = await begun(reading)
    assert b"sk-secret" not in of_process(children[0], "environ")
    assert b"app.reading" in of_process(children[0], "cmdline")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
