"""`rag`: a collection's life by the command, against a real node: made, filled from files, searched, deleted."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.cli.ingestion import form
from tests.cli.command import asked, at_terminal, ctl
from tests.nodes import node, profile
from tests.reading.pdfs import pdf


@asynccontextmanager
async def rag(at: Path, **spec: Any) -> AsyncIterator[str]:
    async with node(profile(at / "rag.yaml", ["rag"], **spec), at / "data") as running:
        yield running.url


def written(at: Path) -> Path:
    """A folder with a file of each kind, below each other, and files that are passed over."""
    (at / "sub" / "deeper").mkdir(parents=True)
    (at / ".git").mkdir()
    (at / "a.txt").write_text("The dog sleeps in the garden.")
    (at / "sub" / "b.MD").write_text("---\nyear: 2024\n---\n# Cats\n\nA cat drinks milk.\n")
    (at / "sub" / 'c "x" \\ ü.html').write_text("<title>Cars</title><p>The automobile needs new tyres.")
    (at / "sub" / "deeper" / "d.pdf").write_bytes(pdf(["Birds sing at dawn."]))
    (at / "e.png").write_bytes(b"\x89PNG")
    (at / ".git" / "f.txt").write_text("hidden")
    return at


async def test_a_collection_is_made_shown_filled_searched_and_deleted(tmp_path: Path) -> None:
    files = str(written(tmp_path / "docs"))
    async with rag(tmp_path) as url:
        assert "There is no collection yet" in (await asked(url, "rag", "collections")).err
        made = await asked(url, "rag", "create", "pets", "--description", "Animals and cars.", "--chunk-size", "300")
        assert "chunks of        300 characters, 45 of overlap, cut by recursive" in made.out
        sent = await asked(url, "rag", "ingest", "pets", files)
        assert sorted(sent.out.splitlines()) == [
            "4 documents in 4 chunks went into pets.",
            "a.txt: 1 chunk",
            "sub/b.MD: 1 chunk",
            'sub/c "x" \\ ü.html: 1 chunk',
            "sub/deeper/d.pdf: 1 chunk",
        ]
        found = await asked(url, "rag", "query", "pets", "which cat drinks", "--top-k", "1")
        assert found.out.splitlines()[0].startswith("1. sub/b.MD, chunk 0 (")
        assert "A cat drinks milk." in found.out
        assert "searched by words alone" in found.err
        assert "(1 result by words)" in found.err
        assert (await asked(url, "rag", "query", "pets", "cat", "--filter", "year=2023", "--json")).json["results"] == []
        [hit] = (await asked(url, "rag", "query", "pets", "cat", "--filter", 'year={"gte": 2024}', "--json")).json["results"]
        assert hit["metadata"] == {"source": "sub/b.MD", "year": 2024}
        listed = await asked(url, "rag", "collections")
        assert listed.out.splitlines()[1].split()[:3] == ["pets", "4", "4"]
        assert "holds            4 documents, 4 chunks" in (await asked(url, "rag", "show", "pets")).out
        jobs = await asked(url, "rag", "jobs", "pets")
        assert [line.split()[1:5] for line in jobs.out.splitlines()[1:]] == [["done", "1", "of", "1"]] * 4
        job = (await asked(url, "rag", "jobs", "pets", "--json")).json["jobs"][0]["id"]
        assert f"The job {job} is done, with 1 of 1 document in." in (await asked(url, "rag", "cancel", "pets", job)).err
        unsaid = await ctl("rag", "delete", "pets", ASTROMESH_URL=url)
        assert (unsaid.code, "--yes" in unsaid.err) == (2, True)
        assert "is deleted" in (await asked(url, "rag", "delete", "pets", "--yes")).err
        assert "There is no collection 'pets'" in (await ctl("rag", "show", "pets", ASTROMESH_URL=url)).err


@pytest.mark.processes
async def test_sending_files_again_replaces_them(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs")
    async with rag(tmp_path) as url:
        await asked(url, "rag", "ingest", "--collection", "pets", "--create", str(docs))
        (docs / "a.txt").write_text("The horse sleeps in the stable.")
        again = (await asked(url, "rag", "ingest", "pets", str(docs), "--chunk-size", "50", "--json")).json
        assert (again["documents"], {each["error"] for each in again["files"]}) == (4, {""})
        assert (await asked(url, "rag", "show", "pets", "--json")).json["documents"] == 4
        assert (await asked(url, "rag", "query", "pets", "dog", "--json")).json["results"] == []
        assert len((await asked(url, "rag", "query", "pets", "horse", "--json")).json["results"]) == 1


async def test_a_file_that_is_refused_stops_no_other_and_is_told_with_the_reason(tmp_path: Path) -> None:
    docs, other = written(tmp_path / "docs"), written(tmp_path / "other")
    (docs / "bad.pdf").write_bytes(pdf([""]))
    (docs / "big.txt").write_text("word " * 300_000)
    (docs / "empty.md").write_text("")
    async with rag(tmp_path, api={"max_body_bytes": 1_000_000}) as url:
        done = await ctl("rag", "ingest", "pets", "--create", str(docs), str(other / "a.txt"), ASTROMESH_URL=url)
        assert done.code == 1
        assert "4 documents in 4 chunks went into pets." in done.out
        told = done.err.splitlines()
        assert told[0].startswith(f"a.txt: {other}/a.txt would replace {docs}/a.txt")
        assert "has no text in its 1 pages" in told[1]
        assert "answers 413: The body is over 1000000 bytes" in told[2]
        assert told[3].startswith("empty.md: ")
        assert told[-1] == "Error: 4 of 8 files are not in; mend what is told above, and send again."
        assert (await ctl("rag", "ingest", "pets", "--json", str(docs / "empty.md"), ASTROMESH_URL=url)).code == 1


@pytest.mark.processes
async def test_what_would_be_the_same_for_every_file_is_told_once(tmp_path: Path) -> None:
    docs = str(written(tmp_path / "docs"))
    async with rag(tmp_path) as url:
        done = await ctl("rag", "ingest", "nope", docs, ASTROMESH_URL=url)
        assert (done.code, done.out) == (1, "")
        assert done.err.count("There is no collection 'nope'") == 1
        assert done.err.rstrip().endswith("Here: --create.")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ingest",), "Name the collection, and files or folders"),
        (("ingest", "docs"), "Name the collection, and files or folders"),
        (("ingest", "docs", "no-such-file"), "There is no file or folder 'no-such-file'."),
        (("ingest", "docs", "deploy"), "There is no file to send; in folders, files that end in .txt, .md"),
        (("query", "docs", "what", "--filter", "year"), "'year' is no filter; write KEY=VALUE."),
        (("query", "docs", "what", "--filter", "a=1", "--filter", "a=2"), "There are two filters on 'a'"),
    ],
)
async def test_a_command_that_says_too_little_is_told_what_to_say(arguments: tuple[str, ...], told: str) -> None:
    done = await ctl("rag", *arguments)
    assert done.code == 2
    assert told in done.err


async def test_a_terminal_shows_how_far_it_is_and_then_what_failed(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs")
    (docs / "empty.md").write_text("")
    async with rag(tmp_path) as url, at_terminal("rag", "ingest", "pets", "--create", str(docs), ASTROMESH_URL=url) as terminal:
        await terminal.until("5 files")
        await terminal.until("100%")
        await terminal.until("empty.md: ")
        await terminal.until("4 documents in 4 chunks went into pets.")
        await terminal.until("1 of 5 files is not in")
        assert await terminal.code() == 1


async def test_ctrl_c_cancels_what_is_under_way(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(10):
        (docs / f"{number:02}.txt").write_text("Some words of a long text. " * 40_000)
    async with rag(tmp_path) as url:
        async with at_terminal("rag", "ingest", "pets", "--create", "--chunk-size", "50", str(docs), ASTROMESH_URL=url) as terminal:
            async with asyncio.timeout(20):
                while "running" not in (await ctl("rag", "jobs", "pets", "--json", ASTROMESH_URL=url)).out:
                    pass
            terminal.interrupt()
            await terminal.until("under way cancelled, what was in stays")
            assert await terminal.code() == 130
        states = [job["state"] for job in (await asked(url, "rag", "jobs", "pets", "--json")).json["jobs"]]
        assert "cancelled" in states
        assert "running" not in states


def test_a_name_that_no_form_could_carry_as_it_is_is_quoted() -> None:
    content = form({"wait": "false"}, 'a"b\\c', b"data")
    assert b'filename="a\\"b\\\\c"' in content.data
    assert content.data.endswith(content.type.partition("boundary=")[2].encode() + b"--\r\n")


@pytest.mark.processes
async def test_a_file_that_may_not_be_read_is_told_and_stops_no_other(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs")
    os.symlink(tmp_path / "gone.txt", docs / "dangling.txt")
    async with rag(tmp_path) as url:
        done = await ctl("rag", "ingest", "pets", "--create", str(docs), ASTROMESH_URL=url)
        assert done.code == 1
        assert "dangling.txt cannot be read: No such file or directory" in done.err
        assert "4 documents" in done.out


async def test_a_file_in_rag_makes_its_collection_and_what_is_not_acted_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "config" / "rag").mkdir(parents=True)
    (tmp_path / "config" / "rag" / "parts.rag.yaml").write_text(
        "kind: RAGPipeline\nmetadata: {description: Fish.}\nspec:\n"
        "  chunking: {strategy: semantic, chunk_size: 20, overlap: 0, separators: ['|']}\n  retrieval: {top_k: 2}\n"
    )
    (tmp_path / "fish.txt").write_text("one fish|two fish and|red fish|blue fish here")
    path = profile(tmp_path / "rag.yaml", ["rag"])
    async with node(path, tmp_path / "data", ASTROMESH_CONFIG_DIR=str(tmp_path / "config")) as running:
        await running.wait_for_log("parts.rag.yaml: spec.chunking.strategy: semantic is not acted on yet")
        await running.wait_for_log("the collection parts was created from its file")
        assert "description      Fish." in (await asked(running.url, "rag", "show", "parts")).out
        assert "fish.txt: 4 chunks" in (await asked(running.url, "rag", "ingest", "parts", str(tmp_path / "fish.txt"))).out
        found = (await asked(running.url, "rag", "query", "parts", "fish", "--json")).json["results"]
        assert [hit["text"] for hit in found] == ["one fish|", "red fish|"]
        doctor = await asked(running.url, "doctor")
        assert "rag.parts" in doctor.out
        assert "Healthy, with" in doctor.out
