"""The tree of errors is the one the design draws, and every error travels between processes.

The rule: an error says who mends it, so its place in the tree is part of the public API.
"""

from __future__ import annotations

import pickle

import pytest

import coordkit
from coordkit import errors
from coordkit.engine import EngineDied
from coordkit.errors import (
    BackendError,
    BackendNotInstalled,
    CampaignTimeout,
    ConfigError,
    CoordkitError,
    ElectorBusy,
    ElectorClosed,
    ForkedProcessError,
    LeadershipLost,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.model import FencingToken, LossReason

# Child and the parents it has in the tree of DESIGN section 3, all of them.
TREE: dict[type[Exception], tuple[type[BaseException], ...]] = {
    CoordkitError: (Exception,),
    ConfigError: (CoordkitError, ValueError),
    BackendNotInstalled: (ConfigError,),
    BackendError: (CoordkitError,),
    Unavailable: (BackendError,),
    OutcomeUnknown: (BackendError,),
    Rejected: (BackendError,),
    Misconfigured: (BackendError,),
    CampaignTimeout: (CoordkitError, TimeoutError),
    ElectorBusy: (CoordkitError, RuntimeError),
    ElectorClosed: (CoordkitError,),
    ForkedProcessError: (CoordkitError, RuntimeError),
    LeadershipLost: (CoordkitError,),
    StaleToken: (CoordkitError,),
}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_error_has_exactly_the_parents_of_the_tree(kind: type[Exception]) -> None:
    assert kind.__bases__ == TREE[kind]


def test_the_tree_is_complete_and_public() -> None:
    defined = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(TREE)
    for kind in TREE:
        assert getattr(coordkit, kind.__name__) is kind
        assert kind.__name__ in coordkit.__all__


def test_what_the_engine_raises_is_caught_by_the_root() -> None:
    assert issubclass(EngineDied, CoordkitError)


PLAIN = [kind for kind in TREE if not issubclass(kind, BackendError) and kind not in (LeadershipLost, StaleToken)]


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_plain_errors_pickle(kind: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(again) is kind
    assert str(again) == "what happened"


@pytest.mark.parametrize(
    "kind", [BackendError, Unavailable, OutcomeUnknown, Rejected, Misconfigured], ids=lambda kind: kind.__name__
)
def test_backend_errors_keep_backend_and_operation_through_pickle(kind: type[BackendError]) -> None:
    made = kind("it is down", backend="sqlite", operation="attempt")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is kind
    assert (str(again), again.backend, again.operation) == ("it is down", "sqlite", "attempt")


def test_backend_and_operation_default_to_nothing() -> None:
    assert (Unavailable("x").backend, Unavailable("x").operation) == ("", "")


def test_leadership_lost_leaves_its_term_behind_when_it_travels() -> None:
    made = LeadershipLost("over", term=lambda: "never pickled", reason=LossReason.REVOKED)
    again = pickle.loads(pickle.dumps(made))
    assert (str(again), again.reason, again.term) == ("over", LossReason.REVOKED, None)


def test_stale_token_names_both_tokens_and_pickles() -> None:
    made = StaleToken(FencingToken("a/b", 3), FencingToken("a/b", 7))
    assert "a/b=3" in str(made)
    assert "a/b=7" in str(made)
    again = pickle.loads(pickle.dumps(made))
    assert (again.offered, again.newest, str(again)) == (made.offered, made.newest, str(made))


def test_the_builtin_parents_catch_what_they_should() -> None:
    with pytest.raises(TimeoutError):
        raise CampaignTimeout("not elected")
    with pytest.raises(ValueError):
        raise ConfigError("wrong")
