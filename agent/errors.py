"""Everything that can go wrong and that a person can mend, in one tree.

HabitusError
├── UsageError        the request itself makes no sense (exit 2)
├── NotFoundError     no such turn, proposal, self …
├── ConflictError     it was decided already, or changed since it was shown
├── SettingsError     habitus.toml cannot be used
├── ModelError        the model cannot be loaded or gave no usable answer
│   └── UnavailableError     its server does not answer, or sleeps: later it may
│       └── LostAdapterError  it lost an adapter that it had: it was restarted, or somebody unloaded it
├── StorageError      the bag cannot be read or written
├── BusyError         another process holds the bag's training lock
└── LearningError     a training or an adapter failed
"""

from __future__ import annotations

from typing import Any

from agent.phrase import Phrase


class HabitusError(Exception):
    """A failure with a sentence for the person and the next step to take.

    Both are templates with named fields. What was found goes into ``values``, never into a template:
    a door words the template in the person's language. ``done``: what was carried out before it, where that stands.
    """

    exit_code = 1
    done: Any = None

    def __init__(self, message: str, hint: str = "", /, **values: object) -> None:
        self.message = Phrase(message, **values)
        self.hint = Phrase(hint, **values)
        super().__init__(str(self.message))

    def as_dict(self) -> dict[str, dict[str, str]]:
        """The form in which ``--json`` prints it."""
        return {"error": {"type": type(self).__name__, "message": self.message, "hint": self.hint}}


class UsageError(HabitusError):
    exit_code = 2


class NotFoundError(HabitusError):
    pass


class ConflictError(HabitusError):
    pass


class SettingsError(HabitusError):
    pass


class ModelError(HabitusError):
    pass


class UnavailableError(ModelError):
    """``seconds``: when to ask again."""

    seconds = 5


class LostAdapterError(UnavailableError):
    pass


class StorageError(HabitusError):
    pass


class BusyError(HabitusError):
    pass


class LearningError(HabitusError):
    pass
