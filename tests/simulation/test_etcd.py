"""The real etcd adapter on a simulated cluster: every directed schedule, and random ones.

A seed that fails is named, and fails again: `python -m tests.simulation --etcd --seed N`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordkit.backends.etcd import stubs
from tests.simulation.etcd_schedules import SCHEDULES
from tests.simulation.etcd_store import DELETE, LEASE_EXISTS, NO_LEASE, PUT, Refusal, Store
from tests.simulation.etcd_storm import TROUBLES, storm
from tests.simulation.seeds import asked, digest_elsewhere, groups, raged

GROUPS = 8
PER_GROUP = 4
# What each group simulates at least: about half of the poorest. Without a floor a simulation in which nobody leads
# would pass. Each group for itself: they run on several workers.
LEADERSHIPS, LOSSES, KINDS = 20, 2, 5

SEEDS = groups(GROUPS, PER_GROUP)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_promise_holds(name: str) -> None:
    SCHEDULES[name]()


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"seeds-{seeds[0]}-to-{seeds[-1]}")
def test_nobody_leads_beside_another(seeds: list[int], record_property: Callable[[str, object], None]) -> None:
    simulated = raged(storm, seeds, record_property)
    if asked is None:
        assert simulated["leaderships"] >= LEADERSHIPS
        assert simulated["losses"] >= LOSSES
        assert sum(simulated[kind] > 0 for kind in TROUBLES) >= KINDS


def test_the_same_seed_is_the_same_run() -> None:
    """Also in another interpreter, with other addresses and another hash seed."""
    again = digest_elsewhere(storm, 11, 60)
    kept = [object() for _ in range(10_000)]  # other addresses here, too
    assert again == storm(11).digest
    assert len(kept) == 10_000


# -- the model does what etcd does ---------------------------------------------------------------------------


def test_a_transaction_of_the_store_is_one_of_etcd() -> None:
    """The answers that Debian's etcd 3.4.23 gives to the same requests."""
    rpc = stubs.load()
    store = Store(rpc)

    def put(key: bytes, lease: int = 0) -> object:
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=b"v", lease=lease))

    def txn(*ops: object, compare: list[object] | None = None) -> object:
        return rpc.TxnRequest(compare=compare or [], success=ops)

    refused = store.transact(txn(put(b"a"), put(b"b", 7)))
    assert isinstance(refused, Refusal)
    assert (refused.code, store.revision, store.keys) == ("NOT_FOUND", 1, {})
    assert store.grant(7, 5) is None
    assert store.grant(7, 5) == LEASE_EXISTS
    shown = rpc.RequestOp(request_range=rpc.RangeRequest(key=b"a", range_end=b"z"))
    answer = store.transact(txn(put(b"b", 7), put(b"a"), shown))
    assert answer.succeeded
    assert answer.header.revision == 2
    assert [(kv.key, kv.create_revision) for kv in answer.responses[2].response_range.kvs] == [(b"a", 2), (b"b", 2)]
    store.transact(txn(put(b"a")))
    newest = rpc.RangeRequest(key=b"a", range_end=b"z", sort_order=2, sort_target=3, limit=1)
    assert [(kv.key, kv.version) for kv in store.range(newest).kvs] == [(b"a", 2)]
    assert store.range(newest).count == 2
    oldest = rpc.RangeRequest(key=b"a", range_end=b"z", max_create_revision=1)
    assert len(store.range(oldest).kvs) == 0
    assert store.range(oldest).count == 2  # filters are not counted
    # A comparison with a range of no keys compares with a key of no revision; one of values fails.
    nobody = rpc.Compare(key=b"x", range_end=b"z", target=1, result=0, create_revision=0)
    assert store.transact(txn(compare=[nobody])).succeeded
    assert not store.transact(txn(compare=[rpc.Compare(key=b"x", target=3, result=0, value=b"")])).succeeded
    everybody = rpc.Compare(key=b"a", range_end=b"z", target=1, result=1, create_revision=1)
    assert store.transact(txn(compare=[everybody])).succeeded
    assert store.revoke(7) is None
    assert store.revoke(7) == NO_LEASE
    assert [[(event.kind, event.kv.key) for event in events] for events in store.history] == [
        [(PUT, b"b"), (PUT, b"a")],
        [(PUT, b"a")],
        [(DELETE, b"b")],
    ]
    assert store.revision == 4
