"""Writes to a fenced resource, on record for `coordkit audit`.

The rule: a write is tried before the resource is asked, and accepted when nothing can undo it any more. Only the
caller knows when that is: a fence in a transaction has admitted a token long before the commit, and a rollback takes
that back. So it is a block around the whole write, whatever the fence, and not a part of the fences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

from coordkit import clock
from coordkit.errors import ConfigError, StaleToken
from coordkit.journal import NoJournal, journal_of_this_process
from coordkit.model import FencingToken, check_token

_seen: WeakSet[StaleToken] = WeakSet()  # those that have left a block


@contextmanager
def recorded(token: FencingToken, resource: str) -> Iterator[None]:
    """Record the block as one write to `resource` under `token`, if COORDKIT_JOURNAL is set; else it does nothing.

        with recorded(term.token, "ledger"), engine.begin() as connection:
            fence.admit(connection, term.token)
            connection.execute(...)

    The block ends: accepted. `StaleToken` of this token leaves it: refused. Whatever else leaves it: its outcome is
    unknown, for the write may have happened. Every exception goes on. The block may await. Of blocks within each other
    that one `StaleToken` leaves, the innermost is refused; what became of the others, nobody knows.

    `resource` names what one fence guards: writes of the same election to the same name are compared, those of
    several hosts, or boots, never. The danger: around less than the whole write, such as without the commit, `accepted`
    says too much; likewise where the block itself catches `StaleToken` and goes on. An operator who lowers a fence
    makes the audit tell of stale writes, as it should.

    Raises `ConfigError` if the journal cannot be opened. Two lines, each one `write` of the system.
    """
    check_token(token)
    if not isinstance(cast(object, resource), str) or not resource:
        raise ConfigError("a resource is named by a str, not empty")
    journal = journal_of_this_process()
    if isinstance(journal, NoJournal):
        yield
        return
    write = {
        "election": token.election,
        "token": token.value,
        "resource": resource,
        "write": f"{clock.system_chance().getrandbits(64):016x}",
    }
    journal.write("tried", **write)
    try:
        yield
    except StaleToken as stale:
        first = stale not in _seen  # by no block within this one
        _seen.add(stale)
        if first and stale.offered == token:
            journal.write("refused", **write, newest=stale.newest.value)
        raise
    journal.write("accepted", **write)
