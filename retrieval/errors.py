"""What can go wrong, in words for the person at the keyboard.

Every message is one sentence or two: what is wrong, what was found, what to do. The command line prints it and
exits with `exit_code`; nothing below the command line prints.
"""


class FathomError(Exception):
    """Base of every error a user may meet."""

    exit_code = 1


class UsageError(FathomError):
    """The request itself is wrong: an unknown option value, a malformed filter, a path that cannot be."""

    exit_code = 2


class BusyError(FathomError):
    """Another process holds what is needed (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class MissingError(FathomError):
    """A model, a collection, a document or an optional package is not there; the message says how to get it."""


class MismatchError(FathomError):
    """The index was made with another model or other settings; the message names the command that fixes it."""


class DamagedError(FathomError):
    """Stored bytes are not what was written; the message names what is damaged and how to repair it."""


class ReadingError(FathomError):
    """One file could not become a document. `reason` is a short stable word for tables and tests."""

    def __init__(self, path: str, reason: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["ReadingError"], tuple[str, str, str]]:
        return (type(self), (self.path, self.reason, self.message))
