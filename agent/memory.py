"""Recall: a Chroma index over what is remembered and what may teach. Only an index: the ledger is the record.

Of the turns only those are in it whose verdict says that they teach: nothing else is ever looked for, and
what is not in it costs nothing, however long the past.

Chroma is not safe for two processes, so the first to open a bag's index owns it; whoever comes
second, and every sandbox, builds the same index in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.records import TEACHING, Memory, Turn, Verdict

if TYPE_CHECKING:
    from agent.ledger import Ledger

DIMENSIONS = 2048
M_PERTURB = -6  # malloc.h


def embed(text: str) -> list[float]:
    """A unit vector of hashed character 1- to 3-grams: no download, Korean and English alike."""
    plain = " ".join(text.lower().split())
    vector = [0.0] * DIMENSIONS
    for n in (1, 2, 3):
        padded = f" {plain} " if n > 1 else plain.replace(" ", "")
        for i in range(len(padded) - n + 1):
            h = int.from_bytes(hashlib.blake2b(padded[i : i + n].encode(), digest_size=4).digest(), "big")
            vector[h % DIMENSIONS] += n if h & 0x8000_0000 else -n
    norm = sum(v * v for v in vector) ** 0.5 or 1.0
    return [v / norm for v in vector]


@contextmanager
def _blank_memory() -> Iterator[None]:
    """Have glibc overwrite whatever it hands out.

    Chroma saves buffers as malloc gave them, so what this process had freed before, sandboxed or erased
    words among it, would be saved along (seen in 2 of 25 rebuilt indexes; docs/log.md). Only while Chroma
    works: a model's batches would be a third slower. Elsewhere than on glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(M_PERTURB, 0xA5)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)


class Index:
    """Nearest earlier words. ``path`` None keeps it in memory."""

    def __init__(self, ledger: Ledger, path: Path | None) -> None:
        from chromadb import Documents, EmbeddingFunction, Embeddings

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
        self._path: Path | None = None
        self._embedding = NGrams()
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            lock, guests = (path / "owner.lock").open("w"), path / "guests.lock"
            guests.touch()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
            except OSError:
                lock.close()
                self._guest = guests.open("w")  # held as long as these words are in memory
                fcntl.flock(self._guest, fcntl.LOCK_SH)
                path = None
        if path is None:
            self._words = self._collection(None)
            self.refresh()
            return
        self._path = path
        folders = self._folders()
        try:
            self._words = self._collection(folders[0] if len(folders) == 1 else path / uuid.uuid4().hex[:8])
            self.refresh()
        except Exception:  # damaged, or of another bag
            self.rebuild()

    def _folders(self) -> list[Path]:
        return [p for p in self._path.iterdir() if p.is_dir()] if self._path else []

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process has these words open; inside, none gets them."""
        if self._path is None:
            yield False
            return
        with (self._path / "guests.lock").open("w") as guests:
            try:
                fcntl.flock(guests, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def rebuild(self) -> None:
        """Build it anew from the ledger, in a fresh folder: Chroma keeps deleted words on disk."""
        folders = self._folders()
        self._words = self._collection(self._path / uuid.uuid4().hex[:8] if self._path else None)
        self.refresh()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _collection(self, folder: Path | None) -> Any:
        import chromadb
        from chromadb.config import Settings

        quiet = Settings(anonymized_telemetry=False)
        with _blank_memory():
            client = chromadb.PersistentClient(str(folder), quiet) if folder else chromadb.EphemeralClient(quiet)
            name = "words" if folder else f"words-{uuid.uuid4().hex}"
            return client.get_or_create_collection(
                name, embedding_function=self._embedding, metadata={"hnsw:space": "cosine"}
            )

    def refresh(self) -> None:
        """Take in what the ledger has gained."""
        stored = self._words.get(include=["documents"])
        have = dict(zip(stored["ids"], stored["documents"] or [], strict=True))
        teaching = [v.turn for v in self._ledger.newest(Verdict, kind=TEACHING)]
        items = [(t.id, t.user, "turn") for t in self._ledger.some(Turn, teaching)]
        items += [(m.id, m.text, "memory") for m in self._ledger.all(Memory)]
        real = {x[0]: x[1] for x in items}
        if any(real.get(i) != text for i, text in have.items()):
            raise ValueError("the index holds words that the ledger does not")
        new = [x for x in items if x[0] not in have and x[1].strip()]
        for i in range(0, len(new), 1000):
            some = new[i : i + 1000]
            self._take(some)

    def add(self, ref: str, text: str, kind: str) -> None:
        """Take in one thing that was just recorded."""
        if text.strip():
            self._take([(ref, text, kind)])

    def _take(self, items: list[tuple[str, str, str]]) -> None:
        ids, texts, kinds = zip(*items, strict=True)
        with _blank_memory():
            self._words.upsert(ids=list(ids), documents=list(texts), metadatas=[{"kind": k} for k in kinds])

    def near(self, text: str, kind: str, limit: int, least: float = 0.0) -> list[tuple[str, str, float]]:
        """``(id, text, cosine similarity)`` of the nearest words of a kind, best first."""
        if not text.strip():
            return []
        with _blank_memory():
            found = self._words.query(query_texts=[text], n_results=limit, where={"kind": kind})
        ids, documents, distances = found["ids"][0], (found["documents"] or [[]])[0], (found["distances"] or [[]])[0]
        rows = [(i, d, 1 - x) for i, d, x in zip(ids, documents, distances, strict=True)]
        return [row for row in rows if row[2] >= least]
