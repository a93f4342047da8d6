"""What is asked of etcd, and what the answers mean. Pure, but for the message classes that it is given.

The rule: one transaction is both the attempt and its proof: it creates our entry, or finds it, and shows the first
place as it stood at that same revision. An answer about a key that is gone, another's, or of another revision never
counts as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from coordkit.backends.etcd.layout import Entry, Place, Record, entries_of, entry_of, record_of

EQUAL: Final = 0  # of Compare.CompareResult
GREATER: Final = 1
CREATE: Final = 1  # of Compare.CompareTarget, and of RangeRequest.SortTarget: 2 there
MOD: Final = 2
VALUE: Final = 3
SORT_BY_CREATE: Final = 2
ASCEND: Final = 1
DESCEND: Final = 2
OPS_PER_TXN = 60  # etcd refuses more than 128 by default


@dataclass(frozen=True, slots=True)
class Standing:
    """How an election stood at one revision, seen by one candidate.

    `mine` is the key that this candidate's lease names; it may be another's. `whole` is False where keys that are not
    of the layout hide the first places: then the whole prefix has to be read.
    """

    revision: int
    mine: Entry | None
    first: Entry | None
    before: Entry | None  # the one before ours in the queue, if it was asked for
    record: Record | None
    whole: bool = True


class Requests:
    """Makes requests of the classes of one `etcdrpc` module, and reads its answers."""

    def __init__(self, rpc: Any) -> None:
        self.rpc = rpc

    # --- an election -----------------------------------------------------------------------------------------

    def join(self, place: Place, lease: int, value: bytes) -> Any:
        """Create our entry unless its key is there; in both cases show the key, the first places and the record."""
        rpc, key = self.rpc, place.entry(lease)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        last = self._places(place, order=DESCEND, limit=2)  # ours, which is the newest, and the one before
        shown = [self._get(key), self._places(place), self._get(place.record)]
        return rpc.TxnRequest(compare=[self._created(key, 0)], success=[put, *shown, last], failure=shown)

    def seize(self, place: Place, lease: int, value: bytes, record: bytes) -> Any:
        """As `join`; where nobody is a candidate, and there is no record yet, it writes that as well and has won."""
        rpc, key = self.rpc, place.entry(lease)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        join = rpc.RequestOp(request_txn=self.join(place, lease, value))
        compare = [self._none_older(place, 0), self._moved_at(place, 0)]
        return rpc.TxnRequest(compare=compare, success=[put, self._put(place.record, record)], failure=[join])

    def look(self, place: Place, lease: int, token: int) -> Any:
        """Show our key, the first places, the record, and who is before us. Changes nothing."""
        return self.rpc.TxnRequest(success=self._shown(place, lease, token))

    def claim(self, place: Place, lease: int, token: int, record: bytes, record_revision: int, *, first: bool) -> Any:
        """Write the record, if we are first and the record is the one known to stand in nobody's way; else `look`.

        `first`: we are known to be first among the entries; what else may be older is not of the layout.
        """
        rpc = self.rpc
        compare = [self._created(place.entry(lease), token), self._moved_at(place, record_revision)]
        if not first:
            compare.append(self._none_older(place, token))
        put = self._put(place.record, record)
        return rpc.TxnRequest(compare=compare, success=[put], failure=self._shown(place, lease, token))

    def leave(self, place: Place, lease: int, token: int, leading: bytes, resigned: bytes) -> Any:
        """Delete our entry and mark our record resigned, if both are ours; else show them."""
        rpc, key = self.rpc, place.entry(lease)
        ours = rpc.Compare(key=place.record, target=VALUE, result=EQUAL, value=leading)
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        shown = [self._get(key), self._get(place.record)]
        return rpc.TxnRequest(
            compare=[self._created(key, token), ours],
            success=[delete, self._put(place.record, resigned)],
            failure=shown,
        )

    def close_record(self, place: Place, leading: bytes, resigned: bytes) -> Any:
        """Mark the record of a leader whose entry is gone resigned, if it is still its own."""
        ours = self.rpc.Compare(key=place.record, target=VALUE, result=EQUAL, value=leading)
        return self.rpc.TxnRequest(compare=[ours], success=[self._put(place.record, resigned)])

    def publish(self, place: Place, lease: int, token: int, value: bytes) -> Any:
        """Change the value of our entry while it stands."""
        rpc, key = self.rpc, place.entry(lease)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        return rpc.TxnRequest(compare=[self._created(key, token)], success=[put])

    def drop(self, key: bytes, token: int) -> Any:
        """Delete a key that is still the one that was looked at."""
        rpc = self.rpc
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        return rpc.TxnRequest(compare=[self._created(key, token)], success=[delete])

    def standing(self, place: Place, lease: int, answer: Any) -> Standing:
        """What an answer to `join` or `look` shows, or one to `seize` or `claim` that did not succeed."""
        entries: list[Entry] = []
        record: Record | None = None
        strange = False
        shown = answer.responses
        if shown and shown[0].WhichOneof("response") == "response_txn":
            shown = shown[0].response_txn.responses
        for op in shown:
            for kv in op.response_range.kvs:
                if kv.key == place.record:
                    record = record_of(place, kv)
                elif (entry := entry_of(place, kv)) is not None:
                    entries.append(entry)
                else:
                    strange = True
        return self._stood(place, lease, answer.header.revision, entries, record, whole=not strange)

    def everything(self, place: Place) -> Any:
        """Show the whole prefix and the record."""
        rpc = self.rpc
        whole = rpc.RangeRequest(key=place.entries, range_end=place.entries_end)
        return rpc.TxnRequest(success=[rpc.RequestOp(request_range=whole), self._get(place.record)])

    def everyone(self, place: Place, answer: Any) -> tuple[list[Entry], Record | None]:
        """All entries in the order of election, and the record, of an answer to `everything`."""
        entries = entries_of(place, answer.responses[0].response_range.kvs)
        records = answer.responses[1].response_range.kvs
        return entries, record_of(place, records[0]) if records else None

    def standing_of_all(self, place: Place, lease: int, answer: Any) -> Standing:
        """What an answer to `everything` shows to one candidate."""
        entries, record = self.everyone(place, answer)
        return self._stood(place, lease, answer.header.revision, entries, record, whole=True)

    def first(self, place: Place) -> Any:
        """Show the first place and the record."""
        return self.rpc.TxnRequest(success=[self._places(place), self._get(place.record)])

    # --- many entries ----------------------------------------------------------------------------------------

    def entries(self, keys: Sequence[bytes]) -> Iterator[Any]:
        """Transactions that show these keys without their values: several, if there are many."""
        rpc = self.rpc
        for start in range(0, len(keys), OPS_PER_TXN):
            some = keys[start : start + OPS_PER_TXN]
            shown = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key, keys_only=True)) for key in some]
            yield rpc.TxnRequest(success=shown)

    @staticmethod
    def shown(answer: Any) -> Iterator[Any]:
        """The keys that an answer to `entries` shows."""
        for op in answer.responses:
            yield from op.response_range.kvs

    # --- parts -----------------------------------------------------------------------------------------------

    def _stood(
        self, place: Place, lease: int, revision: int, entries: list[Entry], record: Record | None, *, whole: bool
    ) -> Standing:
        key = place.entry(lease)
        ordered = sorted(entries, key=lambda entry: entry.token)
        mine = next((entry for entry in ordered if entry.key == key), None)
        earlier = [entry for entry in ordered if mine is not None and entry.token < mine.token]
        first = ordered[0] if ordered else None
        return Standing(revision, mine, first, earlier[-1] if earlier else None, record, whole)

    def _shown(self, place: Place, lease: int, token: int) -> list[Any]:
        before = self._places(place, order=DESCEND, newest=token - 1)
        return [self._get(place.entry(lease)), self._places(place), before, self._get(place.record)]

    def _places(self, place: Place, *, order: int = ASCEND, limit: int = 1, newest: int = 0) -> Any:
        rpc = self.rpc
        return rpc.RequestOp(
            request_range=rpc.RangeRequest(
                key=place.entries,
                range_end=place.entries_end,
                sort_order=order,
                sort_target=SORT_BY_CREATE,
                limit=limit,
                max_create_revision=newest,
            )
        )

    def _get(self, key: bytes) -> Any:
        return self.rpc.RequestOp(request_range=self.rpc.RangeRequest(key=key))

    def _put(self, key: bytes, value: bytes) -> Any:
        return self.rpc.RequestOp(request_put=self.rpc.PutRequest(key=key, value=value))

    def _none_older(self, place: Place, token: int) -> Any:
        """No entry was created before this revision; with 0, that there is none at all."""
        older = {"result": GREATER, "create_revision": token - 1} if token else {"result": EQUAL, "create_revision": 0}
        return self.rpc.Compare(key=place.entries, range_end=place.entries_end, target=CREATE, **older)

    def _moved_at(self, place: Place, revision: int) -> Any:
        """The record was last written at this revision; 0: there is none."""
        return self.rpc.Compare(key=place.record, target=MOD, result=EQUAL, mod_revision=revision)

    def _created(self, key: bytes, revision: int) -> Any:
        return self.rpc.Compare(key=key, target=CREATE, result=EQUAL, create_revision=revision)
