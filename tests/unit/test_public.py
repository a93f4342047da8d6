"""The public names are those of the design, and both faces have the same ones."""

from __future__ import annotations

import coordkit
from coordkit import AsyncLeaderElector, AsyncTerm, LeaderElector, Session, Term
from coordkit.face import Face


def test_the_public_names_are_those_of_the_design() -> None:
    """The names of section 3, and that both faces have the same ones."""
    electors = {name for name in vars(LeaderElector) | vars(Face) if not name.startswith("_")}
    assert electors == {
        "lead",
        "campaign",
        "try_campaign",
        "run",
        "start",
        "term",
        "leader",
        "candidates",
        "observe",
        "close",
    }
    assert {name for name in vars(AsyncLeaderElector) if not name.startswith("_")} == electors
    terms = {name for name in dir(Term) if not name.startswith("_")}
    assert terms == {name for name in dir(AsyncTerm) if not name.startswith("_")}
    assert terms == {
        "election",
        "candidate",
        "token",
        "state",
        "reason",
        "valid",
        "remaining",
        "ensure",
        "confirm",
        "on_lost",
        "wait_ended",
        "proclaim",
        "resign",
    }
    sessions = {name for name in vars(Session) if not name.startswith("_")}
    assert sessions >= {"open", "close", "guarantees"}


def test_everything_that_is_named_public_is_there() -> None:
    assert len(set(coordkit.__all__)) == len(coordkit.__all__)
    for name in coordkit.__all__:
        assert getattr(coordkit, name) is not None
