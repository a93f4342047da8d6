"""`on_lost`: told once of a term that was lost, and never of another.

The rule: what is not on file is held against a process only if it was there to write it. A term with callbacks has a
`watched` line; the `notified` line after a loss may be missing because the process was killed in between, and so may
the `lost` line beside `notified`, for they are written by different threads. So a line is missed only where the process
has written others, of whatever election, at least GRACE seconds after that line was due. The end itself is due at the
deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordkit.audit.found import Kind, Record, Violation
from coordkit.audit.reading import number

GRACE = 10.0  # s: a thread, or an application's own loop, may come to it late on a busy machine


def wrong_notices(name: str, election: str, lines: Sequence[Record], last_seen: float) -> Iterable[Violation]:
    """What is wrong with the notices of one entry. `last_seen`: the last line of its process, of any election."""
    notices = [record for record in lines if record["event"] == "notified"]
    ends = [record for record in lines if record["event"] in ("lost", "resigned")][:1]
    lost = [end for end in ends if end["event"] == "lost"]
    if len(notices) > 1:
        yield Violation(Kind.NOTICE, election, f"{name} was told {len(notices)} times", tuple(notices))
    if notices and not lost and (ends or last_seen - number(notices[0], "boot") >= GRACE):
        how = "was resigned" if ends else "has no end"
        yield Violation(Kind.NOTICE, election, f"{name} was told of a loss, but {how}", (*notices, *ends))
    watched = [record for record in lines if record["event"] == "watched"][:1]
    if watched and not ends and not notices:
        deadline = max(number(record, "deadline") for record in lines if record["event"] in ("won", "renewed"))
        due = max(deadline, number(watched[0], "boot"))
        if last_seen - due >= GRACE:
            message = f"{name} has no end, though its process lived {last_seen - due:.1f} s after its deadline"
            yield Violation(Kind.NOTICE, election, message, (*watched,))
    if lost and watched and not notices:
        due = max(number(lost[0], "boot"), number(watched[0], "boot"))
        if last_seen - due >= GRACE:
            message = (
                f"{name} was lost and its callbacks were not told, though its process lived {last_seen - due:.1f} s"
            )
            yield Violation(Kind.NOTICE, election, message, (*watched, *lost))
