"""What there is to look at in a cluster of etcd: its members, what they grant, what lies under the prefix.

The rule: nothing is written but one lease, which is revoked again. The members are asked one by one where they may
differ, and the cluster where it has one answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from coordkit.backends.contract import Backend
from coordkit.backends.etcd.adapter import PORT, EtcdBackend, connect
from coordkit.backends.etcd.connection import LeaseGone
from coordkit.backends.etcd.layout import Place, entry_of, record_of
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.findings import Check, Finding, count, failed, of_error, ok, opening, some, spare, unchecked, warning
from coordkit.registry import Address

STATUS_SECONDS: Final = 2.0  # for a member to tell its status
KEYS_LOOKED_AT: Final = 5000
KEYS_PER_PAGE: Final = 1000
VALUES_PER_TXN: Final = 50
ELECTIONS_OF_ETCD: Final = 3  # a ttl of so many floors rides out an election of etcd's leader, and the renewals it cost

OLDEST: Final = (3, 3)  # the first that takes a transaction inside a transaction
OLDEST_TRIED: Final = (3, 4)
# Members of these may come to hold different data. Sources: etcd-io/etcd issue 13766 (a crash under load), and the
# announcement of 3.4.22 and 3.5.6 (a crash while defragmenting; a new member where users are asked for).
DISAGREEING: Final = (((3, 5, 0), (3, 5, 5)), ((3, 4, 20), (3, 4, 21)))

Version = tuple[int, ...]


def checks(backend: Backend, address: Address, ttl: float) -> Sequence[Check]:
    """Each thing that an election relies on, the connection first."""
    assert isinstance(backend, EtcdBackend)
    cluster = Cluster(backend, address, ttl)
    rights = [Check("rights", cluster.rights, needs="connection")] if address.user is not None else []
    return [
        opening(backend.open),
        Check("members", cluster.members, needs="connection"),
        Check("health", cluster.health),
        Check("versions", cluster.versions),
        Check("leases", cluster.leases),
        Check("alarms", cluster.alarms, needs="connection"),
        Check("ttl", cluster.ttl, needs="connection"),
        *rights,
        Check("keys", cluster.keys, needs="connection"),
    ]


@dataclass(frozen=True, slots=True)
class Member:
    """One member as the cluster lists it. `clients`: where its client side is, as it tells others."""

    id: int
    name: str
    clients: tuple[tuple[str, int], ...]


class Cluster:
    """One cluster, being looked at. What one check has learned another need not ask again."""

    def __init__(self, backend: EtcdBackend, address: Address, ttl: float) -> None:
        self._backend = backend
        self._connection = backend.connection
        self._address = address
        self._ttl = ttl
        self._listed: list[Member] = []
        self._statuses: Mapping[str, Any] = {}  # of the endpoints of the URL: the answer, or the error

    # --- members ---------------------------------------------------------------------------------------------

    async def members(self, seconds: float) -> Sequence[Finding]:
        """How many there are, and whether the URL names them all."""
        rpc = self._connection.rpc
        answer = await self._call("members", lambda each: each.cluster.MemberList, rpc.MemberListRequest(), seconds)
        self._listed = [Member(each.ID, each.name, _hosts(each.clientURLs)) for each in answer.members]
        number, named = len(self._listed), len(self._address.hosts)
        names = sorted(each.name or "one that has not started" for each in self._listed)
        told = f"{count(number, 'member')}: {some(names)}"
        if number == 1:
            meaning = "while it is down nobody can win or renew"
            return [warning("members", told, meaning, "make it three, if that must not happen")]
        findings = []
        if number % 2 == 0:
            meaning = f"no more may be down than of {number - 1}: {(number - 1) // 2}"
            findings.append(warning("members", told, meaning, "remove one, or add one"))
        if named < number:
            meaning = "if those that are named are down, a candidate finds nobody, although the cluster is well"
            few = f"{told}; the URL names {named}"
            findings.append(warning("members", few, meaning, "name all members in the URL"))
        return findings or [ok("members", told, f"{(number - 1) // 2} may be down")]

    async def health(self, seconds: float) -> Sequence[Finding]:
        """Which endpoints of the URL answer, and know a leader."""
        found = await self._asked(seconds)
        down = [f"{name} ({_short(name, each)})" for name, each in found.items() if isinstance(each, BackendError)]
        lost = [name for name, each in found.items() if not isinstance(each, BackendError) and not each.leader]
        well = len(found) - len(down) - len(lost)
        told = f"{well} of {len(found)} endpoints of the URL answer and have a leader"
        told += f"; no answer from {some(down, 3)}" if down else ""
        told += f"; without a leader: {some(lost)}" if lost else ""
        if well == len(found):
            return [ok("health", told, "each of them serves a candidate")]
        if 2 * well > len(found):
            meaning = spare((len(found) - 1) // 2 - len(down) - len(lost))
            return [warning("health", told, meaning, "start those members, or the network to them")]
        meaning = "without a majority of the members nobody can win or renew"
        return [failed("health", told, meaning, "start those members, or the network to them")]

    async def versions(self, seconds: float) -> Sequence[Finding]:
        """Which versions the members have, those too that the URL does not name."""
        return [judged(*await self._versions(seconds))]

    async def leases(self, seconds: float) -> Sequence[Finding]:
        """What becomes of a living lease when a leader of etcd was stopped and goes on."""
        danger = "in every known version a leader of etcd that was stopped and goes on may revoke a living lease"
        if self._backend.records:
            meaning = f"{danger}; whoever finds the record of another waits, so a crash costs a second ttl"
            return [ok("leases", "candidates keep a record of who leads", meaning)]
        told, meaning = "trust_leases: candidates keep no record of who leads", f"{danger}: then two lead"
        remedy = "leave trust_leases out of all candidates' URLs, or fence every write"
        return [warning("leases", told, meaning, remedy)]

    # --- the cluster -----------------------------------------------------------------------------------------

    async def alarms(self, seconds: float) -> Sequence[Finding]:
        """Whether the cluster has refused writes for want of space, or found its members apart."""
        rpc = self._connection.rpc
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET, alarm=rpc.NONE)
        answer = await self._call("alarms", lambda each: each.maintenance.Alarm, request, seconds, headed=False)
        raised = Counter(each.alarm for each in answer.alarms)
        findings = []
        if raised[rpc.NOSPACE]:
            told = f"NOSPACE, by {count(raised[rpc.NOSPACE], 'member')}: the space quota is used up"
            remedy = "compact, defragment, and then: etcdctl alarm disarm"
            findings.append(failed("alarms", told, "no write is taken, so nobody new can lead", remedy))
        if others := sum(number for alarm, number in raised.items() if alarm != rpc.NOSPACE):
            told = f"CORRUPT, by {count(others, 'member')}: the members' data differ"
            remedy = "stop the candidates, find out which members are right, and replace the others"
            findings.append(failed("alarms", told, "two members may name two leaders", remedy))
        return findings or [ok("alarms", "none", "writes are taken, and the members agree as far as they know")]

    async def ttl(self, seconds: float) -> Sequence[Finding]:
        """What the cluster grants at the least: a lease of 1 s is asked for, and given back."""
        rpc, asked = self._connection.rpc, ceil(self._ttl)
        number = self._backend.host.chance.getrandbits(62) + 1
        request = rpc.LeaseGrantRequest(TTL=1, ID=number)
        try:
            answer = await self._call("ttl", lambda each: each.lease.LeaseGrant, request, seconds)
        except Rejected as error:  # the space quota, or the rights: a candidate would be refused as well
            return [of_error("ttl", error)]
        floor = int(answer.TTL)
        try:
            revoke = rpc.LeaseRevokeRequest(ID=number)
            await self._call("ttl", lambda each: each.lease.LeaseRevoke, revoke, seconds)
        except (LeaseGone, Unavailable, OutcomeUnknown):  # it is over in any case after its second
            self._backend.host.log.info("a lease of %d s was left to run out", floor)
        enough = ELECTIONS_OF_ETCD * floor
        told = f"at least {floor} s are granted (1.5 times etcd's election timeout, in whole seconds)"
        if asked < floor:
            meaning = (
                f"a ttl of {self._ttl:g} s becomes {floor} s, and after a crash so much passes before another leads"
            )
            return [warning("ttl", told, meaning, f"take a ttl of {enough} s or more")]
        if asked < enough:
            meaning = f"an election of etcd's own leader may take a term whose ttl is {self._ttl:g} s"
            return [warning("ttl", told, meaning, f"take a ttl of {enough} s or more, if a term has to outlast that")]
        return [ok("ttl", told, f"a ttl of {self._ttl:g} s rides out an election of etcd's own leader")]

    async def rights(self, seconds: float) -> Sequence[Finding]:
        """Whether the user may read and write under the prefix: a transaction that cannot succeed is judged whole."""
        rpc, key = self._connection.rpc, self._backend.place("coordkit-doctor").record
        never = rpc.Compare(key=key, target=1, result=1, create_revision=2**62)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key))
        look = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        try:
            await self._call(
                "rights", lambda each: each.kv.Txn, rpc.TxnRequest(compare=[never], success=[put, look]), seconds
            )
        except Rejected:
            told = f"the user may not read and write everything under {self._prefix!r}"
            meaning = "elections for which it has no right of its own refuse it"
            remedy = (
                "grant it readwrite, for each election x, on <prefix>x/ and what begins so, and on <prefix>x.coordkit"
            )
            return [warning("rights", told, meaning, remedy)]
        return [ok("rights", f"readwrite under {self._prefix!r}", "the user can lead in any election")]

    # --- what lies there -------------------------------------------------------------------------------------

    async def keys(self, seconds: float) -> Sequence[Finding]:
        """What lies under the prefix, and what of it is not of the layout."""
        kvs, number = await self._range(seconds)
        shelf = Shelf(self._prefix)
        for kv in kvs:
            shelf.put(kv)
        for key, place in await self._values(shelf, seconds):
            shelf.read(key, place)
        told = f"{count(number, 'key')} under {self._prefix!r}: {count(len(shelf.elections), 'election')}, "
        told += f"{count(len(shelf.entries), 'candidate')}"
        told += f"; the first {len(kvs)} were looked at" if len(kvs) < number else ""
        return [*shelf.findings(), *([] if shelf.strange else [ok("keys", told, "all of it is of the layout")])]

    @property
    def _prefix(self) -> str:
        return self._backend.place("x").prefix

    async def _range(self, seconds: float) -> tuple[list[Any], int]:
        """The first keys under the prefix, without their values; how many there are."""
        rpc, prefix = self._connection.rpc, self._prefix.encode()
        found: list[Any] = []
        start, number = prefix or b"\0", 0
        end = (
            prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\0"
        )  # a prefix ends with "/"; "\0": to the end of all
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=KEYS_PER_PAGE, keys_only=True)
            answer = await self._call("keys", lambda each: each.kv.Range, request, seconds)
            number = number or answer.count
            found += answer.kvs
            if not answer.more or len(found) >= KEYS_LOOKED_AT:
                return found, number
            start = found[-1].key + b"\0"

    async def _values(self, shelf: Shelf, seconds: float) -> list[tuple[Any, Place]]:
        """The entries and records that were found, with their values; not those that are gone meanwhile."""
        rpc = self._connection.rpc
        wanted, found = [*shelf.entries, *shelf.records], []
        for start in range(0, len(wanted), VALUES_PER_TXN):
            keys = wanted[start : start + VALUES_PER_TXN]
            shown = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key)) for key in keys]
            answer = await self._call("keys", lambda each: each.kv.Txn, rpc.TxnRequest(success=shown), seconds)
            found += [(kv, shelf.place(kv.key)) for op in answer.responses for kv in op.response_range.kvs]
        return found

    # --- asking ----------------------------------------------------------------------------------------------

    async def _call(self, name: str, method: Any, request: Any, seconds: float, *, headed: bool = True) -> Any:
        answer, _ = await self._connection.call(
            name, method, request, seconds=min(STATUS_SECONDS, seconds), linear=False, headed=headed
        )
        return answer

    async def _asked(self, seconds: float) -> Mapping[str, Any]:
        if not self._statuses:
            self._statuses = await self._connection.each(min(STATUS_SECONDS, 0.4 * seconds))
        return self._statuses

    async def _versions(self, seconds: float) -> tuple[dict[str, str], list[str]]:
        """By whom it was told; and of whom it is not known."""
        found = dict(await self._asked(seconds))
        answered = {each.header.member_id for each in found.values() if not isinstance(each, BackendError)}
        named = {(name, port or PORT) for name, port in self._address.hosts}
        unheard = [each for each in self._listed if each.id not in answered and not named & set(each.clients)]
        if unheard:
            found |= await self._others([each.clients[0] for each in unheard if each.clients], seconds)
        known = {name: str(each.version) for name, each in found.items() if not isinstance(each, BackendError)}
        nameless = [each.name or f"{each.id:x}" for each in unheard if not each.clients]
        return known, [name for name in found if name not in known] + nameless

    async def _others(self, hosts: Sequence[tuple[str, int]], seconds: float) -> dict[str, Any]:
        """The status of members that the URL does not name."""
        if not hosts:
            return {}
        backend = connect(replace(self._address, hosts=tuple(hosts)), self._backend.host)
        assert isinstance(backend, EtcdBackend)
        try:
            return await backend.connection.each(min(STATUS_SECONDS, 0.5 * seconds))
        finally:
            await backend.close()


class Shelf:
    """The keys under a prefix, sorted by what they are."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.entries: dict[bytes, Place] = {}
        self.records: dict[bytes, Place] = {}
        self.foreign: list[bytes] = []
        self.above: list[bytes] = []  # entries of an election of others whose name is our prefix
        self.broken: list[str] = []
        self._kinds: dict[str, set[str]] = {}  # by election: of whom the candidates are

    @property
    def elections(self) -> set[str]:
        """All that have had a candidate and are remembered."""
        return {place.election for place in (*self.entries.values(), *self.records.values())}

    @property
    def strange(self) -> bool:
        """Whether there is anything to tell of."""
        return bool(self.foreign or self.above or self.broken or self._mixed())

    def place(self, key: bytes) -> Place:
        """Of the election that an entry or a record belongs to."""
        return self.entries.get(key) or self.records[key]

    def put(self, kv: Any) -> None:
        """A key without its value."""
        key, inside = kv.key, kv.key.removeprefix(self._prefix)
        name, slash, _ = inside.rpartition(b"/")
        if slash and (place := self._place(name)) is not None and entry_of(place, kv) is not None:
            self.entries[key] = place
        elif inside.endswith(b".coordkit") and (place := self._place(inside.removesuffix(b".coordkit"))) is not None:
            self.records[key] = place
        elif not slash and self._prefix and kv.lease and inside == b"%x" % (kv.lease % 2**64):
            self.above.append(key)
        else:
            self.foreign.append(key)

    def read(self, kv: Any, place: Place) -> None:
        """An entry or a record with its value."""
        if kv.key == place.record:
            try:
                record_of(place, kv)
            except Misconfigured:
                self.broken.append(place.election)
        elif (entry := entry_of(place, kv)) is not None:
            kind = "others" if entry.foreign else "records" if entry.records else "trusts"
            self._kinds.setdefault(place.election, set()).add(kind)

    def findings(self) -> Iterator[Finding]:
        """What somebody should know."""
        if self.broken:
            told = f"the records of {some(sorted(self.broken))} hold something else"
            meaning = "in those elections nobody is elected"
            yield failed("keys", told, meaning, "delete the keys <election>.coordkit there, while nobody leads")
        if self.above:
            told = f"the prefix is the name of an election, with {count(len(self.above), 'candidate')}"
            told += f": {_shown(self.above)}"
            meaning = "its candidates take our keys for rivals before them, and wait"
            yield warning("keys", told, meaning, "take a prefix that is no election's name")
        if mixed := self._mixed():
            told = (
                f"in {some(sorted(mixed))} some candidates keep records, and others do not (etcdctl, Go, trust_leases)"
            )
            meaning = "those others do not wait for a leader whose lease was revoked wrongly: then two lead"
            yield warning("keys", told, meaning, "let one kind contend in an election, or fence every write")
        if self.foreign:
            told = f"{count(len(self.foreign), 'key')} not of the layout: {_shown(self.foreign)}"
            meaning = "they are nobody's candidacy and never counted"
            yield warning("keys", told, meaning, "give the elections a prefix that nobody else writes under")

    def _mixed(self) -> list[str]:
        return [election for election, kinds in self._kinds.items() if "records" in kinds and len(kinds) > 1]

    def _place(self, name: bytes) -> Place | None:
        """The election of this encoded name; None if no election is encoded so."""
        try:
            place = Place(self._prefix.decode(), unquote(name.decode(), errors="strict"))
        except UnicodeDecodeError:
            return None
        return place if place.entries == self._prefix + name + b"/" else None


def judged(known: Mapping[str, str], unknown: Sequence[str]) -> Finding:
    """What the versions of the members mean. `known`: by whom they were told; `unknown`: who has not."""
    if not known:
        return unchecked("versions", f"no member tells its version: {some(unknown)}")
    numbers = Counter(known.values())
    told = ", ".join(f"{version} ({number})" for version, number in sorted(numbers.items()))
    told += f"; unknown of {some(unknown)}" if unknown else ""
    parsed = {version: _parsed(version) for version in numbers}
    if old := [version for version, each in parsed.items() if each < OLDEST]:
        meaning = "it refuses the transaction by which a candidate contends: nobody can lead"
        return failed("versions", told, meaning, f"replace {some(old)} by a version from 3.4 on")
    if old := [version for version, each in parsed.items() if each < OLDEST_TRIED]:
        meaning = "coordkit was never tried on it"
        return warning("versions", told, meaning, f"replace {some(old)} by a version from 3.4 on")
    if bad := [version for version, each in parsed.items() if any(low <= each <= high for low, high in DISAGREEING)]:
        meaning = f"members of {some(bad)} may come to hold different data after a crash, and then two may lead"
        return warning("versions", told, meaning, "go to the newest release of 3.5 or 3.4")
    return ok("versions", told, "coordkit's requests are understood, and no known fault makes members disagree")


def _hosts(urls: Sequence[str]) -> tuple[tuple[str, int], ...]:
    parts = [urlsplit(url) for url in urls]
    return tuple((each.hostname, each.port or PORT) for each in parts if each.hostname)


def _parsed(version: str) -> Version:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _short(name: str, error: BackendError) -> str:
    text = str(error).removeprefix(f"{name}: ")
    return text if len(text) <= 80 else text[:77] + "..."


def _shown(keys: Sequence[bytes]) -> str:
    return some([repr(key.decode(errors="replace")) for key in keys], 3)
