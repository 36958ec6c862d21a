"""`rag`: collections of knowledge: make them, put files into them, and search them."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from app.cli.failure import Failure, Refused
from app.cli.ingestion import Ingestion, Outcome, Source, refuse_failed, sources
from app.cli.invocation import Asked, asks_node
from app.cli.output import note, note_missing, show, show_json
from app.cli.run import INTERRUPTED
from app.cli.text import WIDTH, cell, count, fields, printable, table

_EXCERPT_LINES = 6
_SIZE = click.option("--chunk-size", type=click.IntRange(1), metavar="N", help="The most that a chunk has.")
_OVERLAP = click.option("--chunk-overlap", type=click.IntRange(0), metavar="N", help="What a chunk repeats of the one before.")


@click.group()
def rag() -> None:
    """Collections of knowledge."""


@rag.command()
@asks_node
def collections(asked: Asked) -> None:
    """Each collection with what is in it, wherever it is."""
    reply = asked.node.get("/v1/rag/collections")
    rows = reply.rows("collections")
    if asked.as_json:
        show_json(reply.body)
        return
    if not rows:
        note("There is no collection yet; `astromeshctl rag create NAME` makes one.")
    else:
        head = ("NAME", "DOCUMENTS", "CHUNKS", "MODEL", "NODES", "DESCRIPTION")
        names = ("documents", "chunks")
        told = [
            (row.get("name"), *(row.get(name) for name in names), _model(row), row.get("nodes"), row.get("description")) for row in rows
        ]
        show(table(head, told, whole=3))
    note_missing(reply)


@rag.command()
@click.argument("name")
@click.option("--embedding-model", metavar="MODEL", help='As `/v1/models` lists it; "" for search by words alone. [default: the node\'s]')
@_SIZE
@_OVERLAP
@click.option("--description", metavar="TEXT", help="What is in it.")
@asks_node
def create(asked: Asked, name: str, embedding_model: str | None, **said: Any) -> None:
    """Make the collection NAME. One that is there as asked for stays as it is."""
    given = {key: value for key, value in said.items() if value is not None}
    given |= {} if embedding_model is None else {"embedding_model": embedding_model or None}
    body = asked.node.post("/v1/rag/collections", {"name": name, **given}).body
    _describe(asked, body)


@rag.command("show")
@click.argument("name")
@asks_node
def show_one(asked: Asked, name: str) -> None:
    """How the collection NAME is cut and searched, and how much is in it."""
    _describe(asked, asked.node.get(_path(name)).body)


def _describe(asked: Asked, body: Mapping[str, Any]) -> None:
    if asked.as_json:
        show_json(body)
        return
    cut = body["chunking"]
    told = [("name", body["name"]), ("description", body.get("description")), ("embedding model", _model(body))]
    told += [("chunks of", f"{cut['size']} {cut['unit']}, {cut['overlap']} of overlap, cut by {cut['strategy']}")]
    told += [("holds", f"{count(body['documents'], 'document')}, {count(body['chunks'], 'chunk')}"), ("created", body.get("created_at"))]
    show(fields(told))


@rag.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@asks_node
def delete(asked: Asked, name: str, yes: bool) -> None:
    """Delete the collection NAME with all its documents."""
    holds = asked.node.get(_path(name)).body
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask at; say --yes.")
        documents = count(holds["documents"], "document")
        click.confirm(f"The collection {cell(name)} with {documents} cannot be brought back. Delete?", abort=True, err=True)
    body = asked.node.send("DELETE", _path(name)).body
    if asked.as_json:
        show_json(body)
        return
    note(f"The collection {name} is deleted.")


@rag.command()
@click.argument("name_and_paths", nargs=-1, metavar="NAME PATH...")
@click.option("--collection", metavar="NAME", help="The collection, in place of the first argument.")
@click.option("--create", "make", is_flag=True, help="Make the collection, with the node's settings, where there is none.")
@_SIZE
@_OVERLAP
@asks_node
def ingest(asked: Asked, name_and_paths: Sequence[str], collection: str | None, make: bool, **said: int | None) -> int:
    """Put files into the collection NAME: text, Markdown, HTML and PDF.

    Folders are searched through for .txt, .md, .html, .htm and .pdf. A document's id is its path below the PATH that was named, so
    sending it again replaces it. A file that cannot be read stops no other, and makes the exit code 1. Ctrl-C cancels what is under way.
    """
    name, paths = _named(name_and_paths, collection)
    files, wrong = sources(paths)
    given = {key: str(value) for key, value in said.items() if value is not None} | ({"create": "true"} if make else {})
    outcomes = list[Outcome]()
    with _progress(len(files) + len(wrong), plain=asked.as_json) as tell:

        def ended(outcome: Outcome) -> None:
            outcomes.append(outcome)
            tell(outcome)

        for each in wrong:
            ended(each)
        interrupted = _sent(Ingestion(asked.node, name, given, ended), files)
    _sum_up(asked, name, outcomes)
    if interrupted:
        note(interrupted)
        return INTERRUPTED
    if asked.as_json:
        return 1 if any(each.error for each in outcomes) else 0
    refuse_failed(outcomes)
    return 0


def _named(given: Sequence[str], collection: str | None) -> tuple[str, list[Path]]:
    name, paths = (collection, given) if collection else (given[0] if given else "", given[1:])
    if not paths:
        raise click.UsageError("Name the collection, and files or folders: astromeshctl rag ingest handbook docs/")
    if missing := [path for path in paths if not Path(path).exists()]:
        raise click.UsageError(f"There is no file or folder {missing[0]!r}.")
    return str(name), [Path(path) for path in paths]


def _sent(ingestion: Ingestion, files: Sequence[Source]) -> str:
    """Send them all; what to say where somebody interrupted that."""
    try:
        ingestion.send(files)
    except Refused as error:
        if error.code != "collection_not_found":
            raise
        raise Failure(f"{error.message} Here: --create.") from error
    except KeyboardInterrupt:
        return f"interrupted; {count(ingestion.cancel(), 'file')} under way cancelled, what was in stays"
    return ""


@contextmanager
def _progress(total: int, *, plain: bool) -> Iterator[Callable[[Outcome], None]]:
    """At a terminal a bar, and what failed below it; else a line for each file. With ``plain``, nothing."""
    if plain:
        yield lambda outcome: None
    elif sys.stderr.isatty():
        failed = list[Outcome]()
        try:
            with click.progressbar(length=total, file=sys.stderr, label=count(total, "file")) as bar:

                def advance(outcome: Outcome) -> None:
                    failed.extend([outcome] if outcome.error else [])
                    bar.update(1)

                yield advance
        finally:
            for each in failed:
                _tell(each)
    else:
        yield _tell


def _tell(outcome: Outcome) -> None:
    if outcome.error:
        note(f"{cell(outcome.id)}: {outcome.error}")
    else:
        show(f"{cell(outcome.id)}: {count(outcome.chunks, 'chunk')}")


def _sum_up(asked: Asked, name: str, outcomes: Sequence[Outcome]) -> None:
    taken = [each for each in outcomes if not each.error]
    chunks = sum(each.chunks for each in taken)
    if asked.as_json:
        show_json({"collection": name, "documents": len(taken), "chunks": chunks, "files": [asdict(each) for each in outcomes]})
        return
    show(f"{count(len(taken), 'document')} in {count(chunks, 'chunk')} went into {cell(name)}.")


@rag.command()
@click.argument("name")
@click.argument("text")
@click.option("--top-k", type=click.IntRange(1), metavar="N", help="How many results.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="What the metadata must have; may be given several times.")
@click.option("--mode", type=click.Choice(["hybrid", "words", "vectors"]), help="How to search. [default: hybrid where there are vectors]")
@asks_node
def query(asked: Asked, name: str, text: str, top_k: int | None, filters: Sequence[str], mode: str | None) -> None:
    """Search the collection NAME for TEXT.

    VALUE of a filter is JSON if it can be read so, and text otherwise: year=2024, lang=de, 'year={"gte": 2020}'.
    """
    asks = {"collection": name, "query": text, "top_k": top_k, "filter": _filter(filters), "mode": mode}
    body = asked.node.post("/v1/rag/query", {key: value for key, value in asks.items() if value}).body
    if asked.as_json:
        show_json(body)
        return
    for place, hit in enumerate(body["results"], 1):
        show(_hit(place, hit))
    if body.get("note"):
        note(str(body["note"]))
    note(f"({count(len(body['results']), 'result')} by {body['mode']})")


def _filter(given: Iterable[str]) -> dict[str, Any]:
    wanted = dict[str, Any]()
    for part in given:
        key, equals, value = part.partition("=")
        if not (equals and key):
            raise click.UsageError(f"{part!r} is no filter; write KEY=VALUE.")
        if key in wanted:
            raise click.UsageError(f'There are two filters on {key!r}; write one, such as \'{key}=["a", "b"]\' for any of some values.')
        try:
            wanted[key] = json.loads(value)
        except ValueError:
            wanted[key] = value
    return wanted


def _hit(place: int, hit: Mapping[str, Any]) -> str:
    """A result: where it is, how well it fits, and the beginning of its text."""
    head = f"{place}. {cell(hit['document_id'])}, chunk {hit['chunk']} ({hit['score']:.3g})"
    lines = [part for line in printable(hit["text"]).splitlines() for part in textwrap.wrap(line, WIDTH - 3)]
    shown = lines[:_EXCERPT_LINES] + (["…"] if len(lines) > _EXCERPT_LINES else [])
    return "\n".join((head[:WIDTH], *(f"   {line}" for line in shown)))


@rag.command()
@click.argument("name")
@asks_node
def jobs(asked: Asked, name: str) -> None:
    """The ingestions of the collection NAME that were answered with a job, the latest first."""
    reply = asked.node.get(f"{_path(name)}/jobs")
    rows = reply.rows("jobs")
    if asked.as_json:
        show_json(reply.body)
        return
    if not rows:
        note(f"The collection {name} has had no jobs.")
        return
    told = [(row["id"], row["state"], f"{row['done']} of {row['total']}", row["chunks"], _moment(row)) for row in rows]
    show(table(("JOB", "STATE", "DOCUMENTS", "CHUNKS", "CREATED"), told, whole=2))
    for row in rows:
        if row.get("error"):
            note(f"{row['id']}: {row['error']}")


@rag.command()
@click.argument("name")
@click.argument("job")
@asks_node
def cancel(asked: Asked, name: str, job: str) -> None:
    """Stop the ingestion JOB of the collection NAME; what it has taken in stays."""
    body = asked.node.send("DELETE", f"{_path(name)}/jobs/{quote(job, safe='')}").body
    if asked.as_json:
        show_json(body)
        return
    note(f"The job {job} is {body['state']}, with {body['done']} of {count(body['total'], 'document')} in.")


def _path(name: str) -> str:
    return f"/v1/rag/collections/{quote(name, safe='')}"


def _model(row: Mapping[str, Any]) -> str:
    embedding = row.get("embedding")
    return str(embedding["model"]) if embedding else "none: by words"


def _moment(row: Mapping[str, Any]) -> str:
    return str(row.get("created_at") or "")[:19].replace("T", " ")
