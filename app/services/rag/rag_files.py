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
from app.services.rag.knowledge import Chunking, Embedding

PATTERN = "rag/*.rag.yaml"
COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COLLECTION_REMEDY = "write a name of 1 to 63 letters, digits and ._-, a letter or digit first"
_OWN_BACKENDS = ("sqlite", "sqlite_vec", "postgres", "postgresql", "pgvector")
_NOT_ACTED_ON = (("vector_store", "connection"), ("embeddings", "endpoint"), ("reranking",))
_FIELDS = {"chunk_overlap": "overlap", "chunk_unit": "unit", "chunk_strategy": "strategy"}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One file. ``collection`` is the one that it is about; ``embedding`` None: it is searched by words alone. ``top_k`` and
    ``similarity_threshold`` are a search's own where it names none; None: the node's."""

    collection: str
    description: str
    chunking: Chunking
    embedding: Embedding | None
    top_k: int | None
    similarity_threshold: float | None
    file: str
    warnings: tuple[str, ...] = ()


def read_pipelines(folder: Path, environ: Mapping[str, str]) -> tuple[Pipeline, ...]:
    """The pipelines of a configuration folder. Raises ConfigError with every problem in its files."""
    pipelines, problems = read_all(sorted(folder.glob(PATTERN)), environ)
    if problems:
        raise ConfigError(problems)
    return tuple(pipelines)


def read_all(paths: Sequence[Path], environ: Mapping[str, str]) -> tuple[list[Pipeline], list[Problem]]:
    """What can be read of these files, and every problem in the others; two of them with one collection are a problem of the second."""
    schema = json.loads(files(__package__).joinpath("rag_file.schema.json").read_bytes())
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
    metadata = document.data.get("metadata") or {}
    written = _sections(document.data.get("spec"))
    spec, problems = expand(replace(document, data={"spec": _acted_on(written)}), ("spec",), environ)
    collection = spec["vector_store"].get("collection") or path.name.removesuffix(".rag.yaml")
    chunking = _chunking(spec["chunking"])
    problems += _further_problems(document, collection, chunking)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    retrieval = spec["retrieval"]
    return Pipeline(
        collection=collection,
        description=metadata.get("description", ""),
        chunking=chunking,
        embedding=_embedding(spec["embeddings"]),
        top_k=retrieval.get("top_k"),
        similarity_threshold=retrieval.get("similarity_threshold"),
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


def _chunking(section: Mapping[str, Any]) -> Chunking:
    strategy = section.get("strategy")
    chunking = chunking_of(
        Chunking(),
        size=section.get("chunk_size"),
        overlap=section.get("overlap"),
        unit=section.get("unit"),
        strategy="recursive" if strategy == "semantic" else strategy,
    )
    return replace(chunking, separators=tuple(section.get("separators") or ()))


def _embedding(section: Mapping[str, Any]) -> Embedding | None:
    if not section:
        return None
    provider, model = section.get("provider"), section["model"]
    return Embedding(f"{provider}/{model}" if provider else model, section.get("dimension", 0))


def _further_problems(document: Document, collection: str, chunking: Chunking) -> Iterator[Problem]:
    """What the schema cannot see."""
    if not COLLECTION.fullmatch(collection):
        yield document.problem(("spec", "vector_store", "collection"), f"is {collection!r}", _COLLECTION_REMEDY)
    for name, message, remedy in faults(chunking):
        yield document.problem(("spec", "chunking", _FIELDS.get(name, name)), message, remedy)


def _warnings(spec: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if spec["chunking"].get("strategy") == "semantic":
        yield "spec.chunking.strategy: semantic is not acted on yet: documents are cut as by recursive"
    if spec["embeddings"].get("endpoint"):
        yield "spec.embeddings.endpoint is not acted on: providers.yaml of the node with inference says where a model is"
    store = spec["vector_store"]
    if (backend := store.get("backend", "sqlite")) not in _OWN_BACKENDS:
        yield f"spec.vector_store.backend: {backend} is not acted on: the collection is kept in the node's own store"
    if store.get("connection"):
        yield "spec.vector_store.connection is not acted on: ASTROMESH_DATABASE_URL names a database that nodes share"
    if spec["reranking"].get("enabled"):
        yield "spec.reranking is not acted on yet: results come in the order of the search"
