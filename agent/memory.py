"""Recall: a Chroma index over what was said and remembered. Only an index: the ledger is the record.

Chroma is not safe for two processes, so the first to open a bag's index owns it; whoever comes
second, and every sandbox, builds the same index in memory.
"""

from __future__ import annotations

import fcntl
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.records import Memory, Turn

if TYPE_CHECKING:
    from agent.ledger import Ledger

DIMENSIONS = 512


def embed(text: str) -> list[float]:
    """A unit vector of hashed character 1- to 3-grams: no download, Korean and English alike."""
    plain = " ".join(text.lower().split())
    vector = [0.0] * DIMENSIONS
    for n in (1, 2, 3):
        padded = f" {plain} " if n > 1 else plain.replace(" ", "")
        for i in range(len(padded) - n + 1):
            h = zlib.crc32(padded[i : i + n].encode())
            vector[h % DIMENSIONS] += n if h & 0x8000_0000 else -n
    norm = sum(v * v for v in vector) ** 0.5 or 1.0
    return [v / norm for v in vector]


class Index:
    """Nearest earlier words. ``path`` None keeps it in memory."""

    def __init__(self, ledger: Ledger, path: Path | None) -> None:
        import chromadb
        from chromadb import Documents, EmbeddingFunction, Embeddings
        from chromadb.config import Settings

        class NGrams(EmbeddingFunction[Documents]):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

            def __call__(self, input: Documents) -> Embeddings:
                return [embed(t) for t in input]

            @staticmethod
            def name() -> str:
                return "habitus-ngrams"

            def get_config(self) -> dict[str, Any]:
                return {}

            @staticmethod
            def build_from_config(config: dict[str, Any]) -> EmbeddingFunction[Documents]:
                return NGrams()

        self._ledger = ledger
        self._lock = None
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / "owner.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
            except OSError:
                lock.close()
                path = None
        quiet = Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(path), quiet) if path else chromadb.EphemeralClient(quiet)
        name = "words" if path else f"words-{id(self)}"
        self._words = client.get_or_create_collection(
            name, embedding_function=NGrams(), metadata={"hnsw:space": "cosine"}
        )
        self.refresh()

    def refresh(self) -> None:
        """Take in what the ledger has gained."""
        have = set(self._words.get(include=[])["ids"])
        items = [(t.id, t.user, "turn") for t in self._ledger.all(Turn)]
        items += [(m.id, m.text, "memory") for m in self._ledger.all(Memory)]
        new = [x for x in items if x[0] not in have and x[1].strip()]
        for i in range(0, len(new), 1000):
            some = new[i : i + 1000]
            self._words.add(
                ids=[x[0] for x in some], documents=[x[1] for x in some], metadatas=[{"kind": x[2]} for x in some]
            )

    def add(self, ref: str, text: str, kind: str) -> None:
        """Take in one thing that was just recorded."""
        if text.strip():
            self._words.upsert(ids=[ref], documents=[text], metadatas=[{"kind": kind}])

    def near(self, text: str, kind: str, limit: int, least: float = 0.0) -> list[tuple[str, str, float]]:
        """``(id, text, cosine similarity)`` of the nearest words of a kind, best first."""
        if not text.strip():
            return []
        found = self._words.query(query_texts=[text], n_results=limit, where={"kind": kind})
        ids, documents, distances = found["ids"][0], (found["documents"] or [[]])[0], (found["distances"] or [[]])[0]
        rows = [(i, d, 1 - x) for i, d, x in zip(ids, documents, distances, strict=True)]
        return [row for row in rows if row[2] >= least]
