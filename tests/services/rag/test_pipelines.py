"""`rag/*.rag.yaml`: what the files that exist in the wild come to, and what is told of those with mistakes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.services.rag.examination import examine
from app.services.rag.pipelines import Pipeline, read_pipelines

FULL = """apiVersion: astromesh/v1
kind: RAGPipeline
metadata: {name: handbook, version: 1.0.0, description: "How we work."}
spec:
  chunking: {strategy: semantic, chunk_size: 512, overlap: 64, unit: tokens}
  embeddings: {provider: ollama, model: "${EMBEDDER}", endpoint: "http://${NOWHERE}", dimension: 768}
  vector_store: {backend: qdrant, connection: "${DSN}", collection: handbook-v2}
  reranking: {enabled: true, provider: cohere, model: rerank, top_k: 3}
  retrieval: {top_k: 7, similarity_threshold: 0.4}
"""


def folder(at: Path, **texts: str) -> Path:
    (at / "rag").mkdir(exist_ok=True)
    for name, text in texts.items():
        (at / "rag" / f"{name}.rag.yaml").write_text(text)
    return at


def problems(at: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_pipelines(at / "rag", environ or {})
    return [str(problem).removeprefix(f"{at}/rag/") for problem in raised.value.problems]


def test_a_file_says_how_its_collection_is_cut_embedded_and_searched(tmp_path: Path) -> None:
    [pipeline] = read_pipelines(folder(tmp_path, a=FULL) / "rag", {"EMBEDDER": "nomic-embed-text"})
    cut = {"chunk_strategy": "recursive", "chunk_size": 512, "chunk_overlap": 64, "chunk_unit": "tokens"}
    settings = {"description": "How we work.", "embedding_model": "ollama/nomic-embed-text"} | cut
    assert pipeline == Pipeline("handbook-v2", settings, 7, 0.4, f"{tmp_path}/rag/a.rag.yaml", pipeline.warnings)
    assert [warning.split(" ")[0].rstrip(":") for warning in pipeline.warnings] == [
        "spec.chunking.strategy",
        "spec.embeddings.endpoint",
        "spec.vector_store.backend",
        "spec.embeddings.dimension",
        "spec.vector_store.connection",
        "spec.reranking",
    ]


def test_what_a_file_leaves_out_is_left_to_the_node(tmp_path: Path) -> None:
    at = folder(tmp_path, notes="kind: RAGPipeline\n", parts="kind: RAGPipeline\nspec: {chunking: {chunk_size: 400, separators: ['|']}}\n")
    notes, parts = read_pipelines(at / "rag", {})
    assert notes == Pipeline("notes", {}, None, None, f"{tmp_path}/rag/notes.rag.yaml")
    assert parts.settings == {"chunk_size": 400, "chunk_separators": ("|",)}


@pytest.mark.parametrize("backend", ["sqlite", "postgres", "pgvector"])
def test_the_stores_that_a_node_has_need_no_warning(tmp_path: Path, backend: str) -> None:
    [pipeline] = read_pipelines(folder(tmp_path, a=f"kind: RAGPipeline\nspec: {{vector_store: {{backend: {backend}}}}}\n") / "rag", {})
    assert pipeline.warnings == ()


def test_no_folder_is_no_pipeline(tmp_path: Path) -> None:
    assert read_pipelines(tmp_path, {}) == ()


def test_every_mistake_of_every_file_is_told_with_its_line(tmp_path: Path) -> None:
    wrong = FULL.replace("512", "64").replace("handbook-v2", "'hand book'").replace("rerank,", "rerank, topk: 1,")
    at = folder(
        tmp_path, a=wrong, b="kind: RAGPipeline\nspec:\n  chunkin: {}\n", c="kind: RAGPipeline\nspec: {embeddings: {provider: x}}\n"
    )
    assert problems(at, {"EMBEDDER": "x"}) == [
        "a.rag.yaml:8: spec.reranking.topk: `topk` is not a known field; did you mean `top_k`?",
        "b.rag.yaml:3: spec.chunkin: `chunkin` is not a known field; did you mean `chunking`?",
        "c.rag.yaml:2: spec.embeddings.model: is missing; add `model:`",
    ]
    folder(tmp_path, a=wrong.replace("topk: 1, ", ""), b="kind: RAGPipeline\n", c="kind: RAGPipeline\n")
    assert problems(at) == [
        "a.rag.yaml:5: spec.chunking.overlap: is 64, and a chunk has 64 tokens; take less than the chunk's size",
        "a.rag.yaml:6: spec.embeddings.model: names ${EMBEDDER}, which is not set; set EMBEDDER, or EMBEDDER_FILE to a file that holds it",
        "a.rag.yaml:7: spec.vector_store.collection: is 'hand book'; write 1 to 140 letters, digits and ._:-, a letter or digit first",
    ]


def test_two_files_with_one_collection_are_a_mistake_of_the_second(tmp_path: Path) -> None:
    at = folder(tmp_path, a="kind: RAGPipeline\n", b="kind: RAGPipeline\nspec:\n  vector_store: {collection: a}\n")
    assert problems(at) == [
        f"b.rag.yaml:3: spec.vector_store.collection: 'a' is the collection of {tmp_path}/rag/a.rag.yaml; "
        "name another one, or keep one of the files"
    ]


def test_examining_tells_problems_and_warnings_of_each_file(tmp_path: Path) -> None:
    at = folder(tmp_path, a=FULL, b="kind: RAGPipeline\nspec: {x: 1}\n", c="kind: [\n", d="kind: RAGPipeline\n")
    found = list(examine(sorted((at / "rag").iterdir()), {"EMBEDDER": "x"}))
    assert [(Path(each.file).name, len(each.problems), len(each.warnings)) for each in found] == [
        ("a.rag.yaml", 0, 6), ("b.rag.yaml", 1, 0), ("c.rag.yaml", 1, 0), ("d.rag.yaml", 0, 0),
    ]  # fmt: skip
    assert {each.kind for each in found} == {"RAGPipeline"}
