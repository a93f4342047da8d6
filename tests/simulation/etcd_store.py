"""What every member of an etcd cluster comes to hold: keys with their revisions, and leases. No clock, no chance.

The rule: it does what etcd 3.4 does with one entry of its log after the other (mvcc and apply.go), as far as coordkit
asks for it. When a lease is over is not its affair: somebody puts a revocation into the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PUT, DELETE = 0, 1  # mvccpb.Event.EventType
EQUAL, GREATER, LESS, NOT_EQUAL = range(4)  # Compare.CompareResult
VERSION, CREATE, MOD, VALUE, LEASE = range(5)  # Compare.CompareTarget
DESCEND = 2  # RangeRequest.SortOrder
SORTED_BY = ("key", "version", "create_revision", "mod_revision", "value")  # RangeRequest.SortTarget
COMPARED = ("version", "create_revision", "mod_revision", "value", "lease")  # by CompareTarget


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error: the name of gRPC's code, and what etcd says."""

    code: str
    told: str


@dataclass(slots=True)
class HeldLease:
    """A lease, and the keys that go with it."""

    ttl: int
    keys: dict[bytes, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A key was put or deleted."""

    kind: int
    kv: Any


NO_LEASE = Refusal("NOT_FOUND", "etcdserver: requested lease not found")
LEASE_EXISTS = Refusal("FAILED_PRECONDITION", "etcdserver: lease already exists")


class Store:
    """The state after so many entries of the log."""

    def __init__(self, rpc: Any) -> None:
        self.rpc = rpc
        self.revision = 1
        self.keys: dict[bytes, Any] = {}  # mvccpb.KeyValue
        self.leases: dict[int, HeldLease] = {}
        self.history: list[list[Event]] = []  # of revision 2 and so on
        self._none = rpc.RangeResponse().kvs.add()  # what a key that is not there compares as
        self._changed: list[Event] = []

    # --- entries of the log ----------------------------------------------------------------------------------

    def grant(self, lease: int, ttl: int) -> Refusal | None:
        """Make a lease."""
        if lease in self.leases:
            return LEASE_EXISTS
        self.leases[lease] = HeldLease(ttl)
        return None

    def revoke(self, lease: int) -> Refusal | None:
        """End a lease; its keys go with it."""
        held = self.leases.get(lease)
        if held is None:
            return NO_LEASE
        for key in sorted(held.keys):
            self._delete(key)
        del self.leases[lease]
        self._bump()
        return None

    def transact(self, request: Any) -> Any:
        """A TxnResponse, or a Refusal when nothing was done. The branches are chosen before anything is written."""
        path = self._path(request)
        if any(put.lease and put.lease not in self.leases for put in self._puts(request, iter(path))):
            return NO_LEASE
        answer = self._apply(request, iter(path))
        self._bump()
        answer.header.revision = self.revision
        return answer

    def _path(self, request: Any) -> list[bool]:
        chosen = all(self._compares(compare) for compare in request.compare)
        path = [chosen]
        for op in request.success if chosen else request.failure:
            if op.WhichOneof("request") == "request_txn":
                path += self._path(op.request_txn)
        return path

    def _puts(self, request: Any, path: Iterator[bool]) -> Iterator[Any]:
        for op in request.success if next(path) else request.failure:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                yield op.request_put
            elif kind == "request_txn":
                yield from self._puts(op.request_txn, path)

    def _apply(self, request: Any, path: Iterator[bool]) -> Any:
        chosen = next(path)
        answer = self.rpc.TxnResponse(succeeded=chosen)
        for op in request.success if chosen else request.failure:
            response = answer.responses.add()
            match op.WhichOneof("request"):
                case "request_range":
                    response.response_range.CopyFrom(self.range(op.request_range))
                case "request_put":
                    self._put(op.request_put)
                    response.response_put.SetInParent()
                case "request_delete_range":
                    found = self._within(op.request_delete_range.key, op.request_delete_range.range_end)
                    for kv in found:
                        self._delete(kv.key)
                    response.response_delete_range.deleted = len(found)
                case "request_txn":
                    response.response_txn.CopyFrom(self._apply(op.request_txn, path))
                case unknown:
                    raise AssertionError(f"an operation {unknown}")
        return answer

    # --- reading ---------------------------------------------------------------------------------------------

    def range(self, request: Any) -> Any:
        """A RangeResponse: filtered, then sorted, then cut off at the limit."""
        assert not request.revision
        assert not request.serializable
        found = self._within(request.key, request.range_end)
        count, newest = len(found), request.max_create_revision
        if newest:
            found = [kv for kv in found if kv.create_revision <= newest]
        if request.sort_order or request.sort_target:
            found.sort(
                key=lambda kv: getattr(kv, SORTED_BY[request.sort_target]), reverse=request.sort_order == DESCEND
            )
        answer = self.rpc.RangeResponse(count=count, more=0 < request.limit < len(found))
        for kv in found[: request.limit] if request.limit else found:
            shown = answer.kvs.add()
            shown.CopyFrom(kv)
            if request.keys_only:
                shown.ClearField("value")
        return answer

    def _within(self, key: bytes, end: bytes) -> list[Any]:
        if not end:
            return [self.keys[key]] if key in self.keys else []
        return [self.keys[name] for name in sorted(self.keys) if key <= name < end]

    def _compares(self, compare: Any) -> bool:
        found = self._within(compare.key, compare.range_end)
        if not found and compare.target == VALUE:
            return False
        return all(self._compare(compare, kv) for kv in found or [self._none])

    def _compare(self, compare: Any, kv: Any) -> bool:
        name = COMPARED[compare.target]
        there, asked = getattr(kv, name), getattr(compare, name)
        match compare.result:
            case 0:
                return bool(there == asked)
            case 1:
                return bool(there > asked)
            case 2:
                return bool(there < asked)
            case _:
                return bool(there != asked)

    # --- writing ---------------------------------------------------------------------------------------------

    def _put(self, request: Any) -> None:
        revision = self.revision + 1
        old = self.keys.get(request.key)
        kv = type(self._none)(
            key=request.key,
            value=request.value,
            lease=request.lease,
            create_revision=revision if old is None else old.create_revision,
            mod_revision=revision,
            version=1 if old is None else old.version + 1,
        )
        if old is not None and old.lease:
            del self.leases[old.lease].keys[kv.key]
        if kv.lease:
            self.leases[kv.lease].keys[kv.key] = None
        self.keys[kv.key] = kv
        self._changed.append(Event(PUT, kv))

    def _delete(self, key: bytes) -> None:
        old = self.keys.pop(key)
        if old.lease:
            del self.leases[old.lease].keys[key]
        self._changed.append(Event(DELETE, type(self._none)(key=key, mod_revision=self.revision + 1)))

    def _bump(self) -> None:
        if self._changed:
            self.revision += 1
            self.history.append(self._changed)
            self._changed = []
