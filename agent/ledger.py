"""The append-only history: SQLite rows chained by digest, the words beside them.

A row holds structure; every text under one of ``WORDS`` lives in the content table under a
salted digest, so that text can be erased for good one day without breaking the chain.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.content import Word, content_digest, digests, put_away, take_out
from agent.errors import NotFoundError, StorageError
from agent.phrase import Phrase
from agent.records import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

R = TypeVar("R", bound=Record)

SCHEMA = 1
GENESIS = "0" * 64
PAGE = 200
Place = tuple[int, str]  # a row's number and chain digest: how far someone has read

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, parent TEXT NOT NULL,
    at TEXT NOT NULL, body TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (kind TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_ref ON rows (kind, ref, seq);
CREATE INDEX IF NOT EXISTS by_parent ON rows (kind, parent, seq);
CREATE INDEX IF NOT EXISTS by_judged ON rows (kind, json_extract(body, '$.kind'), seq) WHERE kind = 'Verdict';
CREATE INDEX IF NOT EXISTS by_self ON rows (kind, json_extract(body, '$.self_name'), seq) WHERE kind = 'Turn';
CREATE TABLE IF NOT EXISTS content (digest TEXT PRIMARY KEY, salt TEXT NOT NULL, text TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS rows_stay BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS rows_once BEFORE INSERT ON rows WHEN EXISTS (SELECT 1 FROM rows WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS rows_last BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
# Which field groups a kind, for look-ups: verdicts of a turn, turns of a thread …
_PARENT = {"Turn": "thread", "Verdict": "turn", "Decision": "proposal", "Run": "proposal", "GateReport": "proposal",
           "Proposal": "habit", "Draft": "habit"}  # fmt: skip


class Ledger:
    """One bag's history. Safe for several processes: short write transactions, WAL."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at ``path``.

        Raises:
            StorageError: the disk refuses, the file is no ledger, or a newer version wrote it.
        """
        from sqlalchemy import URL, create_engine, event

        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            where = URL.create("sqlite", database=str(path))  # written out, "?" and "%20" would mean something
            self._engine: Engine = create_engine(where, connect_args={"timeout": 30}, pool_size=16, max_overflow=-1)

            @event.listens_for(self._engine, "connect")
            def _prepare(connection, _record) -> None:  # type: ignore[no-untyped-def]
                connection.isolation_level = None  # transactions are begun by hand, as writers
                _switch_to_wal(connection)
                connection.execute("PRAGMA synchronous=FULL")

            with self._engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                version = None
                if raw.execute("SELECT 1 FROM sqlite_master WHERE name='meta'").fetchone():
                    version = raw.execute("SELECT value FROM meta WHERE key='schema'").fetchone()
                if version is not None and int(version[0]) > SCHEMA:
                    raise StorageError(
                        "This bag was written by a newer Habitus (schema {found}, this one knows {known}).",
                        "Upgrade Habitus, or open another bag with --home.",
                        found=version[0],
                        known=SCHEMA,
                    )
                if version is None:
                    raw.executescript(_TABLES)
                    raw.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
        except StorageError:
            raise
        except Exception as error:  # SQLAlchemy and sqlite3 each have their own trees
            raise _storage_error(path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    # -- writing -------------------------------------------------------------------------------

    def add(self, record: R) -> R:
        """Append ``record`` and return it with its id and time. An id it already has is kept."""
        return self.add_all([record])[0]

    def add_all(self, records: list[R]) -> list[R]:
        """Append several records in one transaction: all or none."""
        with self.together() as add:
            return [add(record) for record in records]

    @contextmanager
    def together(self) -> Iterator[Callable[[Any], Any]]:
        """One transaction: what is added inside is written as a whole or not at all."""
        with self._writing() as connection:
            yield lambda record: self._append(connection, record)

    def _append(self, connection: Connection, record: R) -> R:
        kind = type(record).__name__
        at = record.at or datetime.now(UTC).isoformat(timespec="milliseconds")
        ref = record.id
        if not ref:
            counted = connection.exec_driver_sql("SELECT last FROM counters WHERE kind=?", (kind,)).first()
            width = 4 if record.prefix == "self-" else 1
            ref = f"{record.prefix}{(counted[0] if counted else 0) + 1:0{width}d}"
        connection.exec_driver_sql(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET last=MAX(last, excluded.last)",
            (kind, int(re.sub(r"\D", "", ref) or 0)),
        )
        record = record.model_copy(update={"id": ref, "at": at})
        raw = record.model_dump(mode="json")
        parent = str(raw.get(_PARENT.get(kind, ""), ""))
        contents: list[tuple[str, str, str]] = []
        body = json.dumps(put_away(raw, contents), ensure_ascii=False, sort_keys=True)
        last = connection.exec_driver_sql("SELECT digest FROM rows ORDER BY seq DESC LIMIT 1").first()
        digest = _chain(last[0] if last else GENESIS, kind, ref, parent, at, body)
        if contents:
            connection.exec_driver_sql("INSERT INTO content VALUES (?, ?, ?)", contents)
        connection.exec_driver_sql(
            "INSERT INTO rows (kind, ref, parent, at, body, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (kind, ref, parent, at, body, digest),
        )
        return record

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        except Exception as error:
            from sqlalchemy.exc import SQLAlchemyError

            if isinstance(error, SQLAlchemyError):
                raise _storage_error(self.path, error) from error
            raise

    # -- reading -------------------------------------------------------------------------------

    def get(self, kind: type[R], ref: str) -> R:
        """The newest state of record ``ref``.

        Raises:
            NotFoundError: there is none.
        """
        rows = self._select(kind, "kind=? AND ref=? ORDER BY seq DESC LIMIT 1", (kind.__name__, ref))
        if not rows:
            noun = kind.__name__.lower()
            known = ", ".join([x.id for x in self.all(kind)][-5:])
            raise NotFoundError(
                "There is no {noun} {ref!r}.",
                "Known: {known}." if known else "This bag holds no {noun} yet.",
                noun=Phrase(noun),
                ref=ref,
                known=known,
            )
        return rows[0]

    def some(self, kind: type[R], refs: Sequence[str]) -> list[R]:
        """The newest state of the records under these ids."""
        found: list[R] = []
        for i in range(0, len(refs), 500):
            part = refs[i : i + 500]
            marks = ",".join("?" * len(part))
            latest = f"seq IN (SELECT MAX(seq) FROM rows WHERE kind=? AND ref IN ({marks}) GROUP BY ref) ORDER BY seq"
            found += self._select(kind, latest, (kind.__name__, *part))
        return found

    def all(self, kind: type[R], parent: str | None = None, day: str = "") -> list[R]:
        """The newest state of every record of a kind, oldest first.

        ``parent`` narrows (thread, turn, habit …), and so does ``day``, as YYYY-MM-DD.
        """
        newer = "SELECT 1 FROM rows AS n WHERE n.kind=rows.kind AND n.ref=rows.ref AND n.seq>rows.seq"
        where, values = f"kind=? AND NOT EXISTS ({newer})", [kind.__name__]
        if parent is not None:
            where, values = f"{where} AND parent=?", [*values, parent]
        if day:
            where, values = f"{where} AND json_extract(body, '$.at') LIKE ?", [*values, f"{day}%"]
        return self._select(kind, f"{where} ORDER BY length(ref), ref", tuple(values))

    def newest(self, kind: type[R], /, **fields: Collection[object]) -> Iterator[R]:
        """The newest state of every record of a kind, latest first, read a page at a time: stop when you have enough.

        ``fields`` narrow to records whose field holds one of the values (a verdict's kind and a turn's self are indexed).
        """
        narrow = "".join(f" AND json_extract(body, '$.{f}') IN ({','.join('?' * len(v))})" for f, v in fields.items())
        values = [x for v in fields.values() for x in v]
        below = 1 << 62
        while True:
            with self._reading() as connection:
                found = connection.exec_driver_sql(
                    f"SELECT seq FROM rows AS r WHERE kind=? AND seq<?{narrow} AND NOT EXISTS"
                    " (SELECT 1 FROM rows AS n WHERE n.kind=r.kind AND n.ref=r.ref AND n.seq>r.seq)"
                    f" ORDER BY seq DESC LIMIT {PAGE}",
                    (kind.__name__, below, *values),
                ).all()
            page = [seq for (seq,) in found]
            if not page:
                return
            marks = ",".join("?" * len(page))
            yield from self._select(kind, f"seq IN ({marks}) ORDER BY seq DESC", tuple(page))
            below = page[-1]

    def history(self, kind: type[R], ref: str) -> list[R]:
        """Every state record ``ref`` has had, oldest first."""
        return self._select(kind, "kind=? AND ref=? ORDER BY seq", (kind.__name__, ref))

    def last(self, kind: type[R]) -> R | None:
        """The row of a kind that was written last."""
        rows = self._select(kind, "kind=? ORDER BY seq DESC LIMIT 1", (kind.__name__,))
        return rows[0] if rows else None

    def end(self) -> Place:
        """Where the history ends now."""
        with self._reading() as connection:
            row = connection.exec_driver_sql("SELECT seq, digest FROM rows ORDER BY seq DESC LIMIT 1").first()
        return (row[0], row[1]) if row else (0, GENESIS)

    def holds(self, place: Place) -> bool:
        """Whether this history went through ``place``: a foreign one did not."""
        if place == (0, GENESIS):
            return True
        with self._reading() as connection:
            row = connection.exec_driver_sql("SELECT digest FROM rows WHERE seq=?", (place[0],)).first()
        return bool(row and row[0] == place[1])

    def since(self, kind: type[R], place: Place, until: Place | None = None) -> list[R]:
        """Every row of a kind written after ``place`` (up to ``until``), in the order it was written."""
        last = until[0] if until else sys.maxsize
        where = "seq>? AND seq<=? AND +kind=? ORDER BY seq"  # + keeps to seq
        return self._select(kind, where, (place[0], last, kind.__name__))

    def rows(self, kind: type[R]) -> list[R]:
        """Every row of a kind in the order it was written."""
        return self._select(kind, "kind=? ORDER BY seq", (kind.__name__,))

    def unjudged(self, kind: type[R], limit: int) -> list[R]:
        """Turns with no verdict, oldest first."""
        return self._select(
            kind,
            "kind='Turn' AND ref NOT IN (SELECT parent FROM rows WHERE kind='Verdict') AND NOT EXISTS "
            "(SELECT 1 FROM rows AS n WHERE n.kind='Turn' AND n.ref=rows.ref AND n.seq>rows.seq) ORDER BY seq LIMIT ?",
            (limit,),
        )

    def _select(self, kind: type[R], where: str, values: tuple[object, ...]) -> list[R]:
        try:
            with self._engine.connect() as connection:
                found = connection.exec_driver_sql(f"SELECT body FROM rows WHERE {where}", values).all()
                bodies = [json.loads(body) for (body,) in found]
                wanted = sorted({d for body in bodies for d in digests(body)})
                texts: dict[str, str] = {}
                for i in range(0, len(wanted), 500):
                    some = wanted[i : i + 500]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT digest, text FROM content WHERE digest IN ({marks})"
                    texts.update({row[0]: row[1] for row in connection.exec_driver_sql(query, tuple(some))})
        except Exception as error:
            raise _storage_error(self.path, error) from error
        return [kind.model_validate(take_out(body, texts)) for body in bodies]

    # -- erasing -------------------------------------------------------------------------------

    def words(self) -> Iterator[tuple[str, str, str, Any]]:
        """Every row ever written: ``(kind, ref, parent, body)``, each text in the body as a ``Word``."""
        with self._reading() as connection:
            texts = {row[0]: row[1] for row in connection.exec_driver_sql("SELECT digest, text FROM content")}
            for kind, ref, parent, body in connection.exec_driver_sql(
                "SELECT kind, ref, parent, body FROM rows ORDER BY seq"
            ):
                yield kind, ref, parent, take_out(json.loads(body), texts, Word)

    def erase(self, plan: Callable[[], tuple[Iterable[str], Sequence[Record]]]) -> None:
        """Let go of the texts under some digests for good, and write records along: all or none. Then ``compact``.

        ``plan`` says which, from what the ledger holds while nobody else can write.
        """
        with self._writing() as connection:
            doomed, along = plan()
            for record in along:
                self._append(connection, record)
            connection.exec_driver_sql("PRAGMA secure_delete=ON")
            for digest in set(doomed):
                connection.exec_driver_sql("DELETE FROM content WHERE digest=?", (digest,))

    def compact(self) -> None:
        """Rebuild the file without what was erased; the journal, too. Waits for other processes' writes."""
        with self._reading() as connection:
            connection.exec_driver_sql("PRAGMA temp_store=MEMORY")  # no copy of the words beside the bag
            connection.exec_driver_sql("VACUUM")
            for _ in range(100):
                if not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                    return
                time.sleep(0.1)
        raise StorageError(
            "{path} is held by another process.", "Wait until it has finished, then try again.", path=self.path
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _storage_error(self.path, error) from error

    def verify(self) -> list[str]:
        """What is wrong with the chain: one sentence for each broken row or altered text."""
        from sqlalchemy.exc import DatabaseError

        try:
            return self._broken()
        except DatabaseError as error:
            raise _storage_error(self.path, error) from error

    def _broken(self) -> list[str]:
        wrong: list[str] = []
        last = GENESIS
        with self._engine.connect() as connection:
            for seq, kind, ref, parent, at, body, digest in connection.exec_driver_sql(
                "SELECT seq, kind, ref, parent, at, body, digest FROM rows ORDER BY seq"
            ):
                if _chain(last, kind, ref, parent, at, body) != digest:
                    wrong.append(Phrase("row {seq} ({kind} {ref}) does not fit the chain", seq=seq, kind=kind, ref=ref))
                last = digest
            for digest, salt, text in connection.exec_driver_sql("SELECT digest, salt, text FROM content"):
                if content_digest(salt, text) != digest:
                    wrong.append(Phrase("a text was altered (content {digest})", digest=digest[:12]))
        return wrong


def _switch_to_wal(connection: Any) -> None:
    """SQLite does not wait for a lock here by itself, so two processes opening a fresh bag would collide."""
    for attempt in range(100):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or attempt == 99:
                raise
            time.sleep(0.05)


def _chain(previous: str, *fields: str) -> str:
    return hashlib.sha256("\x1f".join((previous, *fields)).encode()).hexdigest()


def _storage_error(path: Path, error: Exception) -> StorageError:
    text = str(error).lower()
    if re.search("readonly|read-only|permission|disk i/o|unable to open", text):
        return StorageError(
            "The bag at {bag} cannot be written.",
            "Check its permissions and the room on its disk, or choose another with --home.",
            bag=path.parent,
        )
    if "full" in text or "no space" in text:
        return StorageError(
            "The disk that holds {bag} is full; nothing was changed.", "Free some space and try again.", bag=path.parent
        )
    if "not a database" in text or "malformed" in text:
        return StorageError(
            "{path} is damaged or is no ledger.",
            "Restore it from a copy of the bag; nothing was written to it.",
            path=path,
        )
    if "locked" in text or "busy" in text:
        return StorageError(
            "{path} is held by another process.", "Wait until it has finished, then try again.", path=path
        )
    return StorageError("{path} cannot be used: {error}", "Run `habitus doctor` for details.", path=path, error=error)
