"""What the candidates of `test_etcd_revocation` do, each in a process of its own."""

from __future__ import annotations

import threading

from coordkit import LeaderElector, Term
from tests.support.children import hear, say


def lead_all(url: str, options: str, ttl: str, *elections: str) -> None:
    """Lead each of these, once it can, until told to end. Each has a session, and so a lease, of its own."""
    electors = [LeaderElector(f"{url}/{election}{options}", election, ttl=float(ttl)) for election in elections]

    def lost(term: Term) -> None:
        assert term.reason is not None
        say("lost", term.election, term.reason.value)

    def lead(elector: LeaderElector) -> None:
        term = elector.campaign()
        term.on_lost(lost)
        say("leads", term.election, int(term.token))
        ends.wait()
        term.resign()

    ends = threading.Event()
    threads = [threading.Thread(target=lead, args=(elector,)) for elector in electors]
    for thread in threads:
        thread.start()
    hear()
    ends.set()
    for thread in threads:
        thread.join()
    for elector in electors:
        elector.close()
