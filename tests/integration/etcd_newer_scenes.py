"""Scenes of a candidate that does what it is told, and says whether it trusts the leases of etcd."""

from __future__ import annotations

from coordkit import LeaderElector, Session, Term
from tests.support.children import hear, say
from tests.support.records import trusts

ELECTION = "seat"


def obey(url: str, ttl: str) -> None:
    """Opens its session at once; `campaign` and `resign` are done when they are said back, `end` ends it."""
    with Session(url).open() as session:
        say("trusts" if trusts(session.guarantees) else "keeps-records")
        elector = LeaderElector(session, ELECTION, ttl=float(ttl))
        led: list[Term] = []
        while (order := hear()) != "end":
            if order == "campaign":
                led.append(elector.campaign())
                say("leads", int(led[-1].token))
            else:
                led[-1].resign()
                say("resigned")
