"""The tables of knowledge. Texts are kept as UTF-8 in bytea: half a surrogate pair, which JSON may bring, and NUL stay as they came, and
the order of bytes is that of code points. Ids may be longer than an index takes, so they are found by their digest."""

from app.postgres import Schema

KNOWLEDGE = Schema(
    "knowledge",
    (
        """
CREATE SEQUENCE astromesh_rag_keys;
CREATE TABLE astromesh_rag_collections (
    key int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest bytea NOT NULL UNIQUE, name bytea NOT NULL, owner bytea NOT NULL,
    description bytea NOT NULL, model bytea, dimension int NOT NULL, chunking bytea NOT NULL, created_at float8 NOT NULL,
    documents bigint NOT NULL DEFAULT 0, chunks bigint NOT NULL DEFAULT 0, words bigint NOT NULL DEFAULT 0
);
CREATE TABLE astromesh_rag_documents (
    key bigint PRIMARY KEY, collection int NOT NULL, id bytea NOT NULL, metadata bytea NOT NULL, chunks int NOT NULL, text bytea NOT NULL
);
CREATE UNIQUE INDEX astromesh_rag_document_by_id ON astromesh_rag_documents (collection, sha256(id));
CREATE INDEX astromesh_rag_document_in_order ON astromesh_rag_documents (collection, substring(id, 1, 1000));
CREATE TABLE astromesh_rag_metadata (
    document bigint NOT NULL, collection int NOT NULL, field bytea NOT NULL, kind smallint NOT NULL, digest bytea NOT NULL,
    number numeric, text bytea
);
CREATE INDEX astromesh_rag_metadata_of_document ON astromesh_rag_metadata (document);
CREATE INDEX astromesh_rag_metadata_by_value ON astromesh_rag_metadata (collection, field, digest);
CREATE TABLE astromesh_rag_chunks (
    key bigint PRIMARY KEY, collection int NOT NULL, document bigint NOT NULL, number int NOT NULL, text bytea NOT NULL,
    length int NOT NULL, words tsvector NOT NULL
) WITH (toast_tuple_target = 8160);
CREATE INDEX astromesh_rag_chunk_of_document ON astromesh_rag_chunks (document);
CREATE INDEX astromesh_rag_chunk_by_word ON astromesh_rag_chunks USING gin (words);
CREATE TABLE astromesh_rag_jobs (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, collection int NOT NULL, id bytea NOT NULL, state text NOT NULL,
    total int NOT NULL, done int NOT NULL, chunks bigint NOT NULL, error bytea NOT NULL, created_at float8 NOT NULL, finished_at float8,
    chunking bytea NOT NULL, token text NOT NULL DEFAULT '', free_at timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE UNIQUE INDEX astromesh_rag_job_by_id ON astromesh_rag_jobs (collection, sha256(id));
CREATE INDEX astromesh_rag_running_job ON astromesh_rag_jobs (created_at, key) WHERE state = 'running';
CREATE TABLE astromesh_rag_waiting (
    job bigint NOT NULL, position int NOT NULL, id bytea NOT NULL, metadata bytea NOT NULL, text bytea NOT NULL, PRIMARY KEY (job, position)
);
""",
    ),
)

# Only where the extension is: a table of its own, whose rows stay in their pages as long as they fit, for every search reads them all.
# The reference deletes vectors with their chunks also at a node that has not heard of the extension yet.
VECTORS = Schema(
    "knowledge vectors",
    (
        """
CREATE TABLE astromesh_rag_vectors (
    chunk bigint PRIMARY KEY REFERENCES astromesh_rag_chunks ON DELETE CASCADE, collection int NOT NULL, document bigint NOT NULL,
    vector vector NOT NULL
);
ALTER TABLE astromesh_rag_vectors ALTER COLUMN vector SET STORAGE MAIN;
CREATE INDEX astromesh_rag_vector_of_collection ON astromesh_rag_vectors (collection);
""",
    ),
)
