"""Recall: a Chroma index over what is remembered and what may teach. Only an index: the ledger is the record.

It holds vectors and ids; the words stay in the ledger. Of the turns only those are in it whose verdict says
that they teach: nothing else is ever looked for. A mark says how far it has read, so opening it costs what is
new, however long the past.

Chroma is not safe for two processes, so the first to open a bag's index owns it; whoever comes
second, and every sandbox, builds the same index in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import math
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from agent.ledger import GENESIS
from agent.records import TEACHING, Erasure, Memory, Turn, Verdict

if TYPE_CHECKING:
    from agent.ledger import Ledger, Place

DIMENSIONS = 2048
START: Place = (0, GENESIS)
Kind = Literal["memory", "turn"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MARK = "read.json"
M_PERTURB = -6  # malloc.h
Near = tuple[str, str, float]


def embed(text: str) -> list[float]:
    """A unit vector of hashed character 1- to 3-grams: no download, Korean and English alike."""
    plain = " ".join(text.lower().split())
    vector = [0.0] * DIMENSIONS
    for n in (1, 2, 3):
        padded = f" {plain} " if n > 1 else plain.replace(" ", "")
        for i in range(len(padded) - n + 1):
            h = int.from_bytes(hashlib.blake2b(padded[i : i + n].encode(), digest_size=4).digest(), "big")
            vector[h % DIMENSIONS] += n if h & 0x8000_0000 else -n
    norm = math.hypot(*vector) or 1.0
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
        self._ledger = ledger
        self._lock = None
        self._alone = threading.RLock()  # Chroma and malloc's setting are for one thread at a time
        self._path: Path | None = None
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / "owner.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock, self._path = lock, path
            except OSError:
                lock.close()
        try:
            (folder,) = self._folders()
            self._mark = _mark_in(folder)
            if not ledger.holds(self._mark):  # of another bag
                raise ValueError
            self._open(folder)
            self.refresh()
        except Exception:  # none yet, or Chroma's own errors over a damaged one
            self.rebuild()

    def _folders(self) -> list[Path]:
        return [p for p in self._path.iterdir() if p.is_dir()] if self._path else []

    @property
    def owned(self) -> bool:
        """Whether the files are this process's to write."""
        return self._path is not None

    def rebuild(self) -> None:
        """Build it anew from the ledger, in a fresh folder: Chroma keeps on disk what was deleted."""
        folders = self._folders()
        with self._alone:
            self._open(self._path / uuid.uuid4().hex[:8] if self._path else None)
            self._mark = START
            self._read(self._ledger.end())
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _open(self, folder: Path | None) -> None:
        import chromadb
        from chromadb.config import Settings

        quiet = Settings(anonymized_telemetry=False)
        with _blank_memory():
            client = chromadb.PersistentClient(str(folder), quiet) if folder else chromadb.EphemeralClient(quiet)
            mine = "" if folder else uuid.uuid4().hex
            # one for each kind: the graph is walked from neighbour to neighbour, and a filter would end walks early
            self._vectors = {
                kind: client.get_or_create_collection(
                    f"{kind}s{mine}", embedding_function=None, metadata={"hnsw:space": "cosine"}
                )
                for kind in KINDS
            }
            self._folder = folder

    def refresh(self) -> None:
        """Take in what the ledger has gained."""
        with self._alone:
            end = self._ledger.end()
            if end == self._mark:
                return
            if self._ledger.since(Erasure, self._mark):
                self.rebuild()
            else:
                self._read(end)

    def _read(self, end: Place) -> None:
        ledger, mark = self._ledger, self._mark
        teaching = [v.turn for v in ledger.since(Verdict, mark) if v.kind in TEACHING]
        words: dict[Kind, dict[str, str]] = {
            "turn": {t.id: t.user for t in ledger.some(Turn, teaching)},
            "memory": {m.id: m.text for m in ledger.since(Memory, mark)},  # several states of one: the last
        }
        for kind, said in words.items():
            new = [(i, text) for i, text in said.items() if text.strip()]
            for i in range(0, len(new), 1000):
                ids, texts = zip(*new[i : i + 1000], strict=True)
                with _blank_memory():
                    self._vectors[kind].upsert(ids=list(ids), embeddings=[embed(t) for t in texts])
        self._mark = end
        if self._folder and (any(words.values()) or mark == START):
            (self._folder / MARK).write_text(json.dumps(end), "utf-8")

    def near(self, text: str, kind: Kind, limit: int, least: float = 0.0) -> list[Near]:
        """``(id, text, cosine similarity)`` of the nearest words of a kind, best first."""
        if not text.strip():
            return []
        with self._alone:
            self.refresh()
            with _blank_memory():
                found = self._vectors[kind].query(query_embeddings=[embed(text)], n_results=limit)
        scores = {i: 1 - x for i, x in zip(found["ids"][0], (found["distances"] or [[]])[0], strict=True)}
        ids = list(scores)
        words = (
            {m.id: m.text for m in self._ledger.some(Memory, ids)}
            if kind == "memory"
            else {t.id: t.user for t in self._ledger.some(Turn, ids)}
        )
        return [(i, words[i], scores[i]) for i in ids if words.get(i) and scores[i] >= least]


def _mark_in(folder: Path) -> Place:
    seq, digest = json.loads((folder / MARK).read_text("utf-8"))
    return int(seq), str(digest)
