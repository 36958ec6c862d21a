"""Look at ``rag/*.rag.yaml`` without running a node."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.errors import Examined
from app.services.rag.pipelines import read_all

KIND = "RAGPipeline"


def examine(paths: Sequence[Path], environ: Mapping[str, str]) -> Iterator[Examined]:
    """One Examined for each file; ``environ`` has the variables that the files name."""
    pipelines, problems = read_all(paths, environ)
    warnings = {pipeline.file: pipeline.warnings for pipeline in pipelines}
    for path in map(str, paths):
        yield Examined(path, KIND, tuple(problem for problem in problems if problem.file == path), warnings.get(path, ()))
