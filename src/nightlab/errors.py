"""The exceptions of NightLab: what was found, what was needed, what to do.

Every exception carries its facts in `facts` (so that reports need not parse text) and a way out in `hint`. Each is
also a builtin by parentage, so that code that knows nothing of NightLab can still catch it sensibly.
"""

from typing import Any


class NightLabError(Exception):
    """Base of all our exceptions.

    Parameters
    ----------
    message
        What was found and what was needed, in one sentence.
    hint
        What the reader can do about it.
    **facts
        Numbers, names and paths behind the message; plain values only, since errors travel between processes.
    """

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.facts)


def _rebuild(kind: type[NightLabError], message: str, hint: str, facts: dict[str, Any]) -> NightLabError:
    return kind(message, hint=hint, **facts)


class BadInput(NightLabError, ValueError):
    """A value, table or image is not what the function was promised."""


class ShapeError(BadInput):
    """Two arrays or images that must share a grid do not."""


class AllMasked(BadInput):
    """An image has no usable pixel: all of them are NaN or masked."""


class BandMismatch(BadInput):
    """Two products of different passbands were paired."""


class MissingData(NightLabError, FileNotFoundError):
    """A file or data set that was asked for is not where it should be."""


class DownloadFailed(NightLabError, ConnectionError):
    """A file could not be fetched from its public address; the next attempt goes on with what arrived."""


class CorruptFile(NightLabError, OSError):
    """A file exists and cannot be read: truncated, or not of the promised format."""


class WriteFailed(NightLabError, OSError):
    """An output could not be written: a full disk, a read-only repository. Nothing half-written is left behind."""


class NoOverlap(NightLabError, RuntimeError):
    """Two things that must cover the same sky do not touch."""


class TooFewStars(NightLabError, RuntimeError):
    """A fit is not constrained by the stars that survived the selection."""


class FalseMatch(NightLabError, RuntimeError):
    """Stars were matched to a reference catalogue, and as many would have matched by accident."""


class NoPsf(NightLabError, RuntimeError):
    """An image has no point-spread function and none could be made."""


class LateVisit(NightLabError, RuntimeError):
    """A visit older than the newest one in the prompt database was offered to it."""


class DatabaseFailed(NightLabError, RuntimeError):
    """The prompt database refused or lost a statement; nothing of it was stored."""


class RunLocked(NightLabError, RuntimeError):
    """Another process is writing into the same output run."""


class StageFailed(NightLabError, RuntimeError):
    """At least one quantum of a pipeline failed; the others were completed."""
