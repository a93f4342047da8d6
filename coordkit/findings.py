"""What an examination of a backend finds: frozen, comparable, picklable. No I/O, no clock, no threads.

The rule: a finding that is not good says what it means for whoever relies on the promise, and what mends it.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from coordkit.errors import BackendError, Misconfigured, Rejected


class Verdict(enum.Enum):
    """What a finding means for the promise of the backend."""

    OK = "ok"
    WARNING = "warning"  # the promise stands, and costs more than it need, or falls to one fault more
    FAILED = "failed"  # nobody can be elected here, or two might lead
    UNCHECKED = "unchecked"  # it could not be looked at, which says nothing either way


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has seen. `meaning`: for safety. `remedy`: what mends it."""

    check: str
    verdict: Verdict
    detail: str
    meaning: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.verdict in (Verdict.WARNING, Verdict.FAILED) and not (self.meaning and self.remedy):
            raise ValueError(f"{self.check}: a finding that is not good has a meaning and a remedy")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `look` is given the seconds that it has; what it raises is a finding, too.

    `needs` names an earlier check that must not have failed; else this one is not made.
    """

    name: str
    look: Callable[[float], Awaitable[Sequence[Finding]]]
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a repair is doing now."""

    told: str


@dataclass(frozen=True, slots=True)
class Question:
    """A repair goes on only with the operator's word for this. Whoever asks for its next step has given it."""

    asked: str


Step = Progress | Question | Finding


def ok(check: str, detail: str, meaning: str = "") -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, detail, meaning)


def warning(check: str, detail: str, meaning: str, remedy: str) -> Finding:
    """The promise stands, but."""
    return Finding(check, Verdict.WARNING, detail, meaning, remedy)


def failed(check: str, detail: str, meaning: str, remedy: str) -> Finding:
    """A promise is broken."""
    return Finding(check, Verdict.FAILED, detail, meaning, remedy)


def unchecked(check: str, detail: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Verdict.UNCHECKED, detail)


def of_error(check: str, error: BackendError) -> Finding:
    """What it means that the backend did not do what every candidate has to ask of it."""
    if isinstance(error, Rejected):
        meaning = "a candidate with this URL is refused, and can never lead"
        return failed(check, str(error), meaning, "correct the user, the password or the rights")
    if isinstance(error, Misconfigured):
        meaning = "coordkit refuses to elect here, for the promise could not be kept"
        return failed(check, str(error), meaning, "mend what the message names")
    meaning = "as long as this lasts nobody is elected, and terms end by their clocks"
    return failed(check, str(error), meaning, "mend what the message names, or correct the URL")


def opening(open_backend: Callable[[], Awaitable[None]], name: str = "connection") -> Check:
    """The check that the backend can be opened, as every candidate has to."""

    async def look(seconds: float) -> Sequence[Finding]:
        try:
            await open_backend()
        except BackendError as error:
            return [of_error(name, error)]
        return [ok(name, "opened, as by a candidate", "a candidate gets in, and its requests are answered")]

    return Check(name, look)


def count(number: int, one: str, many: str = "") -> str:
    """`1 key`, `2 keys`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def spare(more: int) -> str:
    """What it means that so many more members may fail."""
    return "if one more fails, nobody leads" if more <= 0 else f"{more} more may fail; then nobody leads"
