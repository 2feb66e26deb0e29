"""A file in the bag that says what a process does, for as long as it does it.

A lock says whether it lives. Its number would not: another process may bear it by now, and in a container every
first one does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def posted(path: Path, text: str) -> Iterator[None]:
    """While inside, ``path`` says ``text``, to its owner alone; a process that dies leaves a file that nobody holds."""
    new = path.with_name(f"{path.name}.new")
    new.touch(0o600)
    with new.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # before it has its name: nobody finds it unheld
        file.write(text)
        file.flush()
        os.replace(new, path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read(path: Path) -> str | None:
    """What a living process says there; None where none does."""
    try:
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read()
    except OSError:
        pass
    return None
