"""Keys, values, records and requests of the etcd backend, on a few lines that do what etcd does with a transaction.

The rule: elections never share a key, and what somebody else has written is never taken for ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coordkit.backends.etcd import stubs
from coordkit.backends.etcd.layout import (
    Entry,
    Place,
    Record,
    entries_of,
    entry_of,
    record_of,
    record_value,
    value_of,
)
from coordkit.backends.etcd.requests import OPS_PER_TXN, Requests
from coordkit.errors import ConfigError, Misconfigured
from coordkit.model import CandidateInfo, check_election

RPC = stubs.load()
KeyValue = RPC.RangeResponse.DESCRIPTOR.fields_by_name["kvs"].message_type._concrete_class
LOOK_ALIKES = ("a", "ab", "a/b", "a%2Fb", "a%252Fb", "a.coordkit", "a.coordkit/b", "a0", "a/0", "a.", "b")


def valid(name: str) -> bool:
    try:
        check_election(name)
    except ConfigError:
        return False
    return True


close_ones = st.text("ab/%2F5.0-coordkit", min_size=1, max_size=8)
elections = (st.sampled_from(LOOK_ALIKES) | close_ones | st.text(min_size=1, max_size=20)).filter(valid)
prefixes = st.sampled_from(["", "a/", "a/b/", "a%2Fb/", "b/", "/"])
places = st.builds(Place, prefixes, elections)
leases = st.integers(1, 2**63 - 1)
texts = st.text(max_size=30)
candidates = st.builds(CandidateInfo, texts, texts, texts)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def kv_of(key: bytes, value: bytes = b"", *, lease: int = 0, token: int = 1, moved: int = 0) -> Any:
    return KeyValue(key=key, value=value, lease=lease, create_revision=token, mod_revision=moved or token)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_layout_is_that_of_go() -> None:
    place = Place("jobs/", "reports/nightly")
    assert place.entries == b"jobs/reports%2Fnightly/"
    assert place.entries_end == b"jobs/reports%2Fnightly0"
    assert place.entry(0x694D8F2A1B3C4D5E) == b"jobs/reports%2Fnightly/694d8f2a1b3c4d5e"
    assert place.record == b"jobs/reports%2Fnightly.coordkit"


@given(places, places, leases)
@example(Place("", "a"), Place("", "a.coordkit"), 7)
@example(Place("", "a"), Place("a/", "b"), 7)
@example(Place("", "a"), Place("a/", "ab"), 0xAB)
def test_no_two_elections_share_an_entry_or_a_record(one: Place, other: Place, lease: int) -> None:
    assume((one.prefix, one.election) != (other.prefix, other.election))
    assert entry_of(one, kv_of(other.entry(lease), lease=lease)) is None
    assert entry_of(one, kv_of(other.record, lease=lease)) is None
    assert one.record not in (other.record, other.entry(lease))


@given(prefixes, elections, elections, leases)
def test_under_one_prefix_no_range_holds_anothers_key(prefix: str, one: str, other: str, lease: int) -> None:
    assume(one != other)
    place, elsewhere = Place(prefix, one), Place(prefix, other)
    for key in (elsewhere.entry(lease), elsewhere.record):
        assert not place.entries <= key < place.entries_end


@given(places, leases)
def test_the_range_holds_all_entries_and_not_the_record(place: Place, lease: int) -> None:
    assert place.entries <= place.entry(lease) < place.entries_end
    assert not place.entries <= place.record < place.entries_end


@given(leases)
def test_a_key_is_an_entry_only_under_the_lease_that_it_names(lease: int) -> None:
    place = Place("", "a")
    assert entry_of(place, kv_of(place.entry(lease), lease=lease)) is not None
    assert entry_of(place, kv_of(place.entry(lease), lease=lease ^ 1)) is None
    assert entry_of(place, kv_of(place.entry(lease))) is None


def test_a_lease_above_2_to_the_63_is_negative_where_go_counts() -> None:
    found = entry_of(Place("", "a"), kv_of(b"a/ffffffffffffffff", lease=-1))
    assert found is not None
    assert found.foreign


@pytest.mark.parametrize(
    "suffix",
    [b"", b"7 ", b" 7", b"0x7", b"+7", b"-7", b"7_0", b"g", b"7/", b"x/7", b"7\n", b"7" * 17, b"\xff", b"\xef\xbc\x97"],
    ids=repr,
)
def test_what_is_not_the_hex_of_a_lease_is_nobodys(suffix: bytes) -> None:
    assert entry_of(Place("", "a"), kv_of(b"a/" + suffix, lease=7)) is None


# -- values ------------------------------------------------------------------------------------------------------------


@given(candidates, texts, st.booleans(), leases, st.integers(1, 2**62))
def test_a_candidate_comes_back_from_its_value(
    candidate: CandidateInfo, proclaimed: str, records: bool, lease: int, token: int
) -> None:
    place = Place("", "a")
    value = value_of(candidate, proclaimed, records=records)
    found = entry_of(place, kv_of(place.entry(lease), value, lease=lease, token=token))
    assert found == Entry(place.entry(lease), lease, token, candidate, proclaimed, records)


@given(st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode()) | texts.map(str.encode))
@example(b"[" * 3000)
@example(b"1" * 10_000)
@example(b'{"coordkit": 1}')
@example(b'{"coordkit": 1, "id": 1, "label": "", "metadata": "", "proclaimed": "", "records": true}')
@example(b'{"coordkit": 2, "id": "i", "label": "", "metadata": "", "proclaimed": "", "records": true}')
@example(b'{"coordkit": 1, "id": "\\ud800", "label": "", "metadata": "", "proclaimed": "", "records": true}')
@example(b'{"coordkit": 1, "id": "i", "label": "\\ud800", "metadata": "", "proclaimed": "", "records": true}')
@example(b'{"coordkit": 1, "id": "i", "label": "", "metadata": "\\ud800", "proclaimed": "", "records": true}')
@example(b'{"coordkit": 1, "id": "i", "label": "", "metadata": "", "proclaimed": "", "recorded": true}')
def test_a_foreign_value_is_a_foreign_candidate(value: bytes) -> None:
    found = entry_of(Place("", "a"), kv_of(b"a/7", value, lease=7))
    assert found is not None
    assert found.foreign
    assert not found.records
    assert found.candidate == CandidateInfo("7")
    found.proclaimed.encode()  # it can be shown
    assert len(found.proclaimed) <= 200


def test_entries_come_in_the_order_of_election() -> None:
    place = Place("", "a")
    kvs = [
        kv_of(b"a/3", lease=3, token=30),
        kv_of(b"a/1", lease=1, token=90),
        kv_of(b"a/x", lease=1, token=1),
        kv_of(b"a/2", lease=2, token=10),
    ]
    assert [entry.token for entry in entries_of(place, kvs)] == [10, 30, 90]


# -- records -----------------------------------------------------------------------------------------------------------


@given(leases, texts, st.integers(1, 31_536_000), st.booleans(), st.integers(1, 2**62))
def test_a_record_comes_back(lease: int, identity: str, ttl: int, leading: bool, revision: int) -> None:
    place = Place("", "a")
    value = record_value(lease, identity, ttl, leading=leading)
    assert value == record_value(lease, identity, ttl, leading=leading), "transactions compare the bytes"
    assert record_of(place, kv_of(place.record, value, moved=revision)) == Record(
        lease, identity, ttl, leading, revision
    )


def a_record(**other: object) -> bytes:
    return json.dumps({"coordkit": 1, "lease": "7", "id": "i", "ttl": 10, "state": "leading", **other}).encode()


@given(st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 3000)
@example(b"1" * 10_000)
@example(a_record(ttl=float("nan")))
@example(a_record(ttl=float("inf")))
@example(a_record(ttl=10**400))
@example(a_record(ttl=0))
@example(a_record(ttl=-1))
@example(a_record(ttl=None))
@example(a_record(lease=7))
@example(a_record(lease="xyz"))
@example(a_record(state="Leading"))
@example(a_record(state=["leading"]))
@example(a_record(coordkit=2))
def test_what_is_no_record_is_refused_and_its_key_named(value: bytes) -> None:
    with pytest.raises(Misconfigured, match=r"'jobs/a%2Fb\.coordkit'"):
        record_of(Place("jobs/", "a/b"), kv_of(b"jobs/a%2Fb.coordkit", value))


# -- versions ----------------------------------------------------------------------------------------------------------


# -- requests ----------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """What etcd does with a transaction, as far as ours go. `kvs` by key."""

    revision: int = 1
    kvs: dict[bytes, Any] = field(default_factory=dict)

    def put(self, key: bytes, value: bytes = b"", *, lease: int = 0) -> int:
        """By somebody else."""
        put = RPC.RequestOp(request_put=RPC.PutRequest(key=key, value=value, lease=lease))
        return int(self.txn(RPC.TxnRequest(success=[put])).header.revision)

    def txn(self, request: Any) -> Any:
        before = self.revision
        answer = self._txn(request)
        answer.header.revision = self.revision
        assert self.revision <= before + 1
        return answer

    def _txn(self, request: Any) -> Any:
        succeeded = all(self._holds(compare) for compare in request.compare)
        new = self.revision + 1
        ops = request.success if succeeded else request.failure
        return RPC.TxnResponse(succeeded=succeeded, responses=[self._done(op, new) for op in ops])

    def _done(self, op: Any, new: int) -> Any:
        kind = op.WhichOneof("request")
        if kind == "request_range":
            return RPC.ResponseOp(response_range=RPC.RangeResponse(kvs=self._shown(op.request_range)))
        if kind == "request_txn":
            return RPC.ResponseOp(response_txn=self._txn(op.request_txn))
        self.revision = new
        if kind == "request_delete_range":
            assert not op.request_delete_range.range_end
            self.kvs.pop(op.request_delete_range.key, None)
            return RPC.ResponseOp(response_delete_range=RPC.DeleteRangeResponse())
        put = op.request_put
        there = self.kvs.get(put.key)
        created = there.create_revision if there else new
        self.kvs[put.key] = kv_of(put.key, put.value, lease=put.lease, token=created, moved=new)
        return RPC.ResponseOp(response_put=RPC.PutResponse())

    def _shown(self, wanted: Any) -> list[Any]:
        found = self._range(wanted.key, wanted.range_end)
        if wanted.max_create_revision:
            found = [kv for kv in found if kv.create_revision <= wanted.max_create_revision]
        if wanted.sort_target == RPC.RangeRequest.CREATE:
            found.sort(key=lambda kv: kv.create_revision, reverse=wanted.sort_order == RPC.RangeRequest.DESCEND)
        return found[: wanted.limit or None]

    def _range(self, key: bytes, end: bytes) -> list[Any]:
        return [kv for name, kv in sorted(self.kvs.items()) if (key <= name < end if end else name == key)]

    def _holds(self, compare: Any) -> bool:
        found = self._range(compare.key, compare.range_end)
        if compare.target == RPC.Compare.VALUE:
            assert compare.result == RPC.Compare.EQUAL
            return bool(found) and all(kv.value == compare.value for kv in found)
        name = {RPC.Compare.CREATE: "create_revision", RPC.Compare.MOD: "mod_revision"}[compare.target]
        wanted = getattr(compare, name)
        values = [getattr(kv, name) for kv in found] or [0]
        return all(value == wanted if compare.result == RPC.Compare.EQUAL else value > wanted for value in values)


REQUESTS = Requests(RPC)
PLACE = Place("p/", "e")
MINE = 0xA
VALUE = value_of(CandidateInfo("mine"), "", records=True)
LEADING = record_value(MINE, "mine", 10, leading=True)
RESIGNED = record_value(MINE, "mine", 10, leading=False)

# What others have put before us: candidates, odd keys, keys of other elections.
others = st.lists(
    st.sampled_from([(b"p/e/1", 1), (b"p/e/2", 2), (b"p/e/3", 3), (b"p/e/zz", 0), (b"p/e/b/4", 4), (b"p/ee/5", 5)]),
    unique=True,
)


def cluster_with(keys: Iterable[tuple[bytes, int]]) -> Cluster:
    cluster = Cluster()
    for key, lease in keys:
        cluster.put(key, b"foreign", lease=lease)
    return cluster


def queue(cluster: Cluster) -> list[int]:
    return [entry.token for entry in entries_of(PLACE, cluster.kvs.values())]


@given(others, others, st.booleans())
def test_joining_shows_the_place_in_the_queue_at_that_revision(
    before: list[tuple[bytes, int]], after: list[tuple[bytes, int]], again: bool
) -> None:
    cluster = cluster_with(before)
    answer = cluster.txn(REQUESTS.join(PLACE, MINE, VALUE))
    assert answer.succeeded
    token = cluster.revision
    if again:  # the reply was lost, and others came meanwhile
        for key, lease in after:
            if key not in cluster.kvs:
                cluster.put(key, lease=lease)
        answer = cluster.txn(REQUESTS.join(PLACE, MINE, VALUE))
        assert not answer.succeeded
    standing = REQUESTS.standing(PLACE, MINE, answer)
    if not standing.whole:
        standing = REQUESTS.standing_of_all(PLACE, MINE, cluster.txn(REQUESTS.everything(PLACE)))
    assert standing.revision == cluster.revision
    assert standing.mine is not None
    assert standing.mine.token == token
    assert standing.mine.candidate.id == "mine"
    assert standing.first is not None
    assert standing.first.token == min(queue(cluster))
    in_front = [each for each in queue(cluster) if each < token]
    if in_front:
        assert standing.before is not None
        assert standing.before.token in in_front
        assert again or standing.before.token == max(in_front)
    else:
        assert standing.before is None


@given(others, others)
def test_looking_shows_who_is_before_us(before: list[tuple[bytes, int]], after: list[tuple[bytes, int]]) -> None:
    cluster = cluster_with(before)
    cluster.txn(REQUESTS.join(PLACE, MINE, VALUE))
    token = cluster.revision
    for key, lease in after:
        if key not in cluster.kvs:
            cluster.put(key, lease=lease)
    standing = REQUESTS.standing(PLACE, MINE, cluster.txn(REQUESTS.look(PLACE, MINE, token)))
    if not standing.whole:
        standing = REQUESTS.standing_of_all(PLACE, MINE, cluster.txn(REQUESTS.everything(PLACE)))
    in_front = [each for each in queue(cluster) if each < token]
    assert (standing.before.token if standing.before else None) == max(in_front, default=None)
    assert standing.first is not None
    assert standing.first.token == min(queue(cluster))


@given(others, st.booleans())
def test_seizing_wins_only_where_nobody_is_and_nobody_was(keys: list[tuple[bytes, int]], led: bool) -> None:
    cluster = cluster_with(keys)
    if led:
        cluster.put(PLACE.record, record_value(9, "another", 10, leading=True))
    empty = not any(key.startswith(PLACE.entries) for key, _ in keys)
    answer = cluster.txn(REQUESTS.seize(PLACE, MINE, VALUE, LEADING))
    assert answer.succeeded is (empty and not led)
    kv = cluster.kvs[PLACE.entry(MINE)]
    assert kv.create_revision == kv.mod_revision == cluster.revision, "joined in any case, in one revision"
    if answer.succeeded:
        assert cluster.kvs[PLACE.record].mod_revision == cluster.revision
    else:
        standing = REQUESTS.standing(PLACE, MINE, answer)
        assert standing.mine is not None
        assert (standing.record is not None) is led


def test_seizing_again_after_a_lost_reply_changes_nothing_and_shows_it() -> None:
    cluster = Cluster()
    cluster.txn(REQUESTS.seize(PLACE, MINE, VALUE, LEADING))
    token = cluster.revision
    answer = cluster.txn(REQUESTS.seize(PLACE, MINE, VALUE, LEADING))
    assert not answer.succeeded
    assert cluster.revision == token
    standing = REQUESTS.standing(PLACE, MINE, answer)
    assert standing.mine == standing.first
    assert standing.record == Record(MINE, "mine", 10, leading=True, revision=token)


@given(others)
def test_a_claim_is_for_who_is_first_and_knows_the_record(keys: list[tuple[bytes, int]]) -> None:
    cluster = cluster_with(keys)
    cluster.put(PLACE.record, record_value(9, "another", 10, leading=True))
    known = cluster.revision
    cluster.txn(REQUESTS.join(PLACE, MINE, VALUE))
    token = cluster.revision
    for first in (False, True):
        assert not cluster.txn(REQUESTS.claim(PLACE, MINE, token, LEADING, known - 1, first=first)).succeeded
        assert not cluster.txn(REQUESTS.claim(PLACE, MINE, token - 1, LEADING, known, first=first)).succeeded
    claimed = cluster.txn(REQUESTS.claim(PLACE, MINE, token, LEADING, known, first=False))
    assert claimed.succeeded is not any(key.startswith(PLACE.entries) for key, _ in keys)
    assert (cluster.kvs[PLACE.record].value == LEADING) is claimed.succeeded
    if not claimed.succeeded and queue(cluster) == [token]:  # odd keys alone are older
        assert cluster.txn(REQUESTS.claim(PLACE, MINE, token, LEADING, known, first=True)).succeeded


def test_leaving_removes_the_entry_and_marks_the_record_and_nobody_elses() -> None:
    cluster = Cluster()
    cluster.txn(REQUESTS.seize(PLACE, MINE, VALUE, LEADING))
    token = cluster.revision
    assert not cluster.txn(REQUESTS.leave(PLACE, MINE, token + 1, LEADING, RESIGNED)).succeeded
    assert cluster.txn(REQUESTS.leave(PLACE, MINE, token, LEADING, RESIGNED)).succeeded
    assert list(cluster.kvs) == [PLACE.record]
    assert cluster.kvs[PLACE.record].mod_revision == cluster.revision
    cluster.txn(REQUESTS.join(PLACE, MINE, VALUE))  # a new entry under the same lease, hence the same key
    late = cluster.txn(REQUESTS.leave(PLACE, MINE, token, LEADING, RESIGNED))
    assert not late.succeeded
    assert PLACE.entry(MINE) in cluster.kvs
    assert not cluster.txn(REQUESTS.drop(PLACE.entry(MINE), token)).succeeded
    assert not cluster.txn(REQUESTS.publish(PLACE, MINE, token, b"")).succeeded
    assert not cluster.txn(REQUESTS.close_record(PLACE, LEADING, RESIGNED)).succeeded


def test_many_keys_are_asked_for_in_transactions_that_etcd_takes() -> None:
    cluster = Cluster()
    keys = [PLACE.entry(number) for number in range(1, 2 * OPS_PER_TXN + 2)]
    for number, key in enumerate(keys, start=1):
        cluster.put(key, lease=number)
    requests = list(REQUESTS.entries([*keys, b"p/e/none"]))
    assert [len(request.success) for request in requests] == [OPS_PER_TXN, OPS_PER_TXN, 2]
    assert [kv.key for request in requests for kv in REQUESTS.shown(cluster.txn(request))] == keys
