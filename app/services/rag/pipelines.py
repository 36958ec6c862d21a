"""Read ``rag/*.rag.yaml``: which collections there shall be, and how they are cut, embedded and searched. All problems are told at once."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from app.config.variables import expand
from app.config.yaml import Document, check, read
from app.errors import ConfigError, Problem
from app.services.rag.cutting import chunking_of, faults
from app.services.rag.knowledge import Chunking

PATTERN = "*.rag.yaml"
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,139}")
_COLLECTION_REMEDY = "write 1 to 140 letters, digits and ._:-, a letter or digit first"
_OWN_BACKENDS = ("sqlite", "sqlite_vec", "postgres", "postgresql", "pgvector")
_NOT_ACTED_ON = (("vector_store", "connection"), ("embeddings", "endpoint"), ("embeddings", "dimension"), ("reranking",))
_OF_CHUNKING = {"chunk_size": "size"}
_FIELDS = {"chunk_overlap": "overlap"}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One file. ``settings`` is what it says of its collection, as a request to create it would; ``top_k`` and ``similarity_threshold`` are
    of searches that name none, None where the file does not either."""

    collection: str
    settings: Mapping[str, Any]
    top_k: int | None
    similarity_threshold: float | None
    file: str
    warnings: tuple[str, ...] = ()


def read_pipelines(folder: Path, environ: Mapping[str, str]) -> tuple[Pipeline, ...]:
    """The pipelines of the folder ``rag`` of the configuration. Raises ConfigError with every problem in its files."""
    pipelines, problems = read_all(sorted(folder.glob(PATTERN)), environ)
    if problems:
        raise ConfigError(problems)
    return tuple(pipelines)


def read_all(paths: Sequence[Path], environ: Mapping[str, str]) -> tuple[list[Pipeline], list[Problem]]:
    """What can be read of these files, and every problem in the others; two of them with one collection are a problem of the second."""
    schema = json.loads(files(__package__).joinpath("pipeline.schema.json").read_bytes())
    found, problems = dict[str, Pipeline](), list[Problem]()
    for path in paths:
        try:
            document = read(path)
            pipeline = _pipeline(path, document, schema, environ)
        except ConfigError as error:
            problems += error.problems
            continue
        if other := found.get(pipeline.collection):
            at = ("spec", "vector_store", "collection")
            told = f"{pipeline.collection!r} is the collection of {other.file}"
            problems.append(document.problem(at, told, "name another one, or keep one of the files"))
        found.setdefault(pipeline.collection, pipeline)
    return list(found.values()), problems


def _pipeline(path: Path, document: Document, schema: Mapping[str, Any], environ: Mapping[str, str]) -> Pipeline:
    if problems := check(document, schema):
        raise ConfigError(problems)
    written = _sections(document.data.get("spec"))
    spec, problems = expand(replace(document, data={"spec": _acted_on(written)}), ("spec",), environ)
    collection = spec["vector_store"].get("collection") or path.name.removesuffix(".rag.yaml")
    chunking = _chunking(spec["chunking"])
    problems += _further_problems(document, collection, chunking)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    description = (document.data.get("metadata") or {}).get("description")
    said = {"description": description, "embedding_model": _model(spec["embeddings"])}
    return Pipeline(
        collection=collection,
        settings={name: value for name, value in said.items() if value} | {f"chunk_{name}": value for name, value in chunking.items()},
        top_k=spec["retrieval"].get("top_k"),
        similarity_threshold=spec["retrieval"].get("similarity_threshold"),
        file=str(path),
        warnings=tuple(_warnings(written)),
    )


def _sections(spec: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    names = ("chunking", "embeddings", "vector_store", "reranking", "retrieval")
    return {name: dict((spec or {}).get(name) or {}) for name in names}


def _acted_on(spec: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Without what is only warned about: a variable there need not be set."""
    return {
        name: {key: value for key, value in section.items() if (name, key) not in _NOT_ACTED_ON}
        for name, section in spec.items()
        if (name,) not in _NOT_ACTED_ON
    }


def _chunking(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of it, by the names of Chunking."""
    said = {_OF_CHUNKING.get(name, name): value for name, value in section.items() if value is not None}
    said |= {"strategy": "recursive"} if said.get("strategy") == "semantic" else {}
    return said | ({"separators": tuple(said["separators"])} if "separators" in said else {})


def _model(section: Mapping[str, Any]) -> str | None:
    provider, model = section.get("provider"), section.get("model")
    return f"{provider}/{model}" if provider else model


def _further_problems(document: Document, collection: str, chunking: Mapping[str, Any]) -> Iterator[Problem]:
    """What the schema cannot see."""
    if not _COLLECTION.fullmatch(collection):
        yield document.problem(("spec", "vector_store", "collection"), f"is {collection!r}", _COLLECTION_REMEDY)
    for name, message, remedy in faults(chunking_of(Chunking(), **chunking)):
        yield document.problem(("spec", "chunking", _FIELDS.get(name, name)), message, remedy)


def _warnings(spec: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if spec["chunking"].get("strategy") == "semantic":
        yield "spec.chunking.strategy: semantic is not acted on yet: documents are cut as by recursive"
    if spec["embeddings"].get("endpoint"):
        yield "spec.embeddings.endpoint is not acted on: providers.yaml of the node with inference says where a model is"
    store = spec["vector_store"]
    if (backend := store.get("backend", "sqlite")) not in _OWN_BACKENDS:
        yield f"spec.vector_store.backend: {backend} is not acted on: the collection is kept in the node's own store"
    if spec["embeddings"].get("dimension"):
        yield "spec.embeddings.dimension is not acted on: the first vector of a collection tells it"
    if store.get("connection"):
        yield "spec.vector_store.connection is not acted on: ASTROMESH_DATABASE_URL names a database that nodes share"
    if spec["reranking"].get("enabled"):
        yield "spec.reranking is not acted on yet: results come in the order of the search"
