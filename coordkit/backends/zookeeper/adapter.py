"""Elections in ZooKeeper: a sequential ephemeral node for each candidate; the lowest sequence leads.

The rules: a node is ours only if it belongs to the living session. A candidate has won when a list of the nodes, read
after its own was created, has its own in first place: names are never used again, so who is gone stays gone; and when
the session is known to live on, by the clock (`lifeline`). A new session is a new candidacy. The token is the node's
czxid. Each candidate watches the node before its own and no other.

After a create whose outcome is unknown the name is not clean until it is proved: our nodes are looked for, by their
guid, behind a write, which commits after everything that this session has asked for. An election's node is never
written to: that would use up the one-shot watch of a program of Curator that waits behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from kazoo.exceptions import NodeExistsError, NoNodeError

from coordkit.backends.contract import (
    OBSERVE_SECONDS,
    Backend,
    Behind,
    Candidacy,
    Confirmed,
    Grant,
    Host,
    Lost,
    Renewed,
    Unknown,
)
from coordkit.backends.zookeeper.client import Client, ServerSession, Target
from coordkit.backends.zookeeper.layout import (
    Entry,
    Place,
    candidate_of,
    data_of,
    entries_of,
    guid_of,
    proclaimed_by,
    proclamation,
    wrapped,
)
from coordkit.backends.zookeeper.pulse import PACE, Beat, Pulse
from coordkit.backends.zookeeper.target import acl_of, chroot_of, target_of
from coordkit.backends.zookeeper.watches import Watches
from coordkit.errors import BackendError, Misconfigured, OutcomeUnknown, Rejected, Unavailable
from coordkit.lease import Promise
from coordkit.model import CandidateInfo, FencingToken, Guarantees, LeaderInfo
from coordkit.registry import Address
from coordkit.waiting import Budget, bounded, until

READ_SECONDS: Final = 2.0  # one read that no lease bounds
ROUNDS: Final = 8  # of one attempt: two or three decide it
LOOK_SECONDS: Final = 30.0  # a waiter looks again at the latest then, whatever hint was lost
ENOUGH: Final = 0.3  # of the timeout: with less left, a win waits for a beat
OPEN_SECONDS: Final = 3.0  # for several tries, each of which may be told of the one before
RENEW_WAITS: Final = 0.2  # of the timeout, for a beat; then what is known without it is told

_RESIGNED: Final = Lost("it was resigned")
_ENDED: Final = Lost("its session has ended")


class ZooKeeperBackend:
    """One client of one ensemble."""

    def __init__(self, target: Target, chroot: str, host: Host, drift: float, acl: Sequence[Any]) -> None:
        self.guarantees = _GUARANTEES
        self.drift = drift
        self.host = host
        self.acl = list(acl)
        self.client = Client(target, host, drift, self._changed)
        self.watches = Watches(self.client)
        self.pulse = Pulse(self.client, host, chroot, drift, self._hint)
        self.tainted = False  # the session has a node that it may not delete: it is ended when nothing is held
        self.held: set[ZooKeeperCandidacy] = set()  # those that have, or may have, a node
        self._chroot = chroot

    async def open(self) -> None:
        budget = Budget(self.host.clock, OPEN_SECONDS)
        while True:
            await self.client.ready(max(0.0, budget.left), "open")
            self.pulse.start()
            try:
                await self._check_root()
            except Unavailable:  # a server may greet, and only then refuse: why is told to who asks again
                if budget.left <= 0:
                    raise
            else:
                return

    async def _check_root(self) -> None:
        root = self._chroot or "/"
        if await self.stat(root, READ_SECONDS) is None:  # as far as this server knows
            await self.client.read("open", lambda kazoo: kazoo.sync_async(root), READ_SECONDS)
            if await self.stat(root, READ_SECONDS) is None:
                raise self.no_chroot("open")

    async def close(self) -> None:
        self.pulse.stop()
        # A session that is ended takes its nodes along. Where one stands for a term, its lease is to run out instead.
        await self.client.close(farewell=not self.held)

    def candidacy(self, election: str, candidate: CandidateInfo, ttl: float) -> Candidacy:
        return ZooKeeperCandidacy(self, election, candidate, ttl)

    async def renew(self, held: Sequence[Grant]) -> Sequence[Renewed | Lost | Unknown]:
        mine = [each for grant in held if isinstance(each := grant.candidacy, ZooKeeperCandidacy)]
        known = [each.over() for each in mine]
        if None not in known:
            return [each for each in known if each is not None]
        timeout = max((each.timeout for each in mine), default=0.0)
        try:
            # One that is under way will do, but for who has reason to fear for its node.
            call = self.pulse.beat(joins=not any(each.suspect for each in mine))
            beat = await bounded(call, RENEW_WAITS * timeout, "renew")
        except (OutcomeUnknown, Unavailable):
            # It is late. What was proved meanwhile counts all the same; where that is nothing, nothing is known.
            return [each.renewed(None) for each in mine]
        return [each.renewed(beat) for each in mine]

    async def leader(self, election: str) -> LeaderInfo | None:
        place = self.place(election)
        for _ in range(ROUNDS):
            entries = await self.standing(place, READ_SECONDS, sync=True)
            shown: tuple[bytes, Any] | None = None
            for entry in entries:
                shown, proclaimed = await asyncio.gather(
                    self._data(place.node(entry.name)), self._data(place.proclaimed)
                )
                if shown is None:
                    break  # gone meanwhile: whoever is first now is asked for
                data, stat = shown
                if stat.ephemeralOwner == 0:
                    continue  # somebody has made it by hand: no candidate
                candidate = candidate_of(entry, data)
                told = proclaimed_by(candidate.id, None if proclaimed is None else proclaimed[0])
                metadata = candidate.metadata if told is None else told
                return LeaderInfo(candidate, FencingToken(election, stat.czxid), metadata)
            else:
                return None
        raise Unavailable("the election changed all the time", backend="zookeeper", operation="leader")

    async def candidates(self, election: str) -> Sequence[CandidateInfo]:
        place = self.place(election)
        entries = await self.standing(place, READ_SECONDS, sync=True)
        found = await asyncio.gather(*(self._data(place.node(entry.name)) for entry in entries))
        return [
            candidate_of(entry, shown[0])
            for entry, shown in zip(entries, found, strict=True)
            if shown is not None and shown[1].ephemeralOwner != 0
        ]

    async def changes(self, election: str) -> AsyncIterator[None]:
        place, moved = self.place(election), asyncio.Event()
        watched = (("children", place.path), ("presence", place.path), ("presence", place.proclaimed))
        try:
            while True:
                moved.clear()
                if await self.watches.add("children", place.path, moved, READ_SECONDS) is None:
                    await self.watches.add("presence", place.path, moved, READ_SECONDS)
                await self.watches.add("presence", place.proclaimed, moved, READ_SECONDS)
                yield
                await until(moved, OBSERVE_SECONDS)
        finally:
            for kind, path in watched:
                self.watches.drop(kind, path, moved)  # type: ignore[arg-type]

    async def standing(self, place: Place, seconds: float, *, sync: bool = False) -> list[Entry]:
        """The candidates' nodes in the order of election; `sync`: as they are now, for a server may lag behind."""
        reads = [self.client.read("list", lambda kazoo: kazoo.get_children_async(place.path), seconds)]
        if sync:
            reads.insert(0, self.client.read("list", lambda kazoo: kazoo.sync_async(place.path), seconds))
        # Sent one behind the other; the servers answer a session in the order of its questions.
        *synced, children = await asyncio.gather(*reads, return_exceptions=True)
        for answer in synced:
            if isinstance(answer, BaseException) and not isinstance(answer, NoNodeError):
                raise answer
        if isinstance(children, NoNodeError):
            return []
        if isinstance(children, BaseException):
            raise children
        entries = entries_of(children)
        if not wrapped(entries):
            return entries
        stats = await asyncio.gather(*(self.stat(place.node(entry.name), seconds) for entry in entries))
        known = [(stat.czxid, entry) for stat, entry in zip(stats, entries, strict=True) if stat is not None]
        return [entry for _, entry in sorted(known, key=lambda each: each[0])]

    async def stat(self, path: str, seconds: float) -> Any:
        """The stat of a node; None if there is none."""
        return await self.client.read("list", lambda kazoo: kazoo.exists_async(path), seconds)

    async def _data(self, path: str) -> tuple[bytes, Any] | None:
        try:
            shown: tuple[bytes, Any] = await self.client.read(
                "leader", lambda kazoo: kazoo.get_async(path), READ_SECONDS
            )
        except NoNodeError:
            return None
        return shown

    def let_go(self, candidacy: ZooKeeperCandidacy) -> None:
        """It has no node any more, or none that it could remove."""
        self.held.discard(candidacy)
        if self.tainted and not self.held:
            self.tainted = False
            self.client.start_over("it has nodes that it may not delete", farewell=True)

    def no_chroot(self, operation: str) -> Misconfigured:
        """The path of the URL is not there."""
        told = f"the chroot {self._chroot!r} does not exist; create it, or name another in the URL"
        return Misconfigured(told, backend="zookeeper", operation=operation)

    def place(self, election: str) -> Place:
        """Where an election lies."""
        return Place(self._chroot, election)

    def _changed(self) -> None:
        """A connection was made or lost, or a session has ended."""
        if not self.client.connected:
            self.watches.fire_all()
            self._hint()  # who leads, too, whatever it watches just now
        self.pulse.wake()

    def _hint(self) -> None:
        """Something has happened that may concern each of our nodes: whoever waits, or leads, is to find out."""
        for candidacy in self.held:
            candidacy.hint()


class ZooKeeperCandidacy:
    """One candidate in the queue. Lives on the host's loop; one call at a time, but for hints and renewals."""

    def __init__(self, backend: ZooKeeperBackend, election: str, candidate: CandidateInfo, ttl: float) -> None:
        self.candidate = candidate
        self.ttl = ttl
        self._backend = backend
        self._client = backend.client
        self._place = backend.place(election)
        self._guid = guid_of(backend.host.chance.getrandbits(128))
        self._session: ServerSession | None = None  # which our node belongs to
        self._name: str | None = None  # of our node, once it is known
        self._token = 0  # its czxid
        self.suspect = False  # something may have happened to our node
        self._reported: Promise | None = None  # the newest promise that was told
        self._unknown = False  # a create was asked for, and what became of it was never told
        self._before: str | None = None  # the path that is watched: of the node before ours
        self._moved = asyncio.Event()

    # --- the contract ----------------------------------------------------------------------------------------

    async def attempt(self) -> Grant | Behind:
        try:
            return await self._contend()
        except Unavailable as error:
            # To who asks it means that nothing was sent: so nothing of ours may be there.
            if self._unknown or self._name is not None:
                raise OutcomeUnknown(str(error), backend="zookeeper", operation="attempt") from error
            raise

    async def _contend(self) -> Grant | Behind:
        self._moved.clear()
        budget = Budget(self._backend.host.clock, 0.3 * self.ttl)  # the campaign gives a third
        for _ in range(ROUNDS):
            session = await self._client.ready(budget.left, "attempt")
            if self._session is not session:
                self._forget()  # it belongs to a session that has ended
                self._session = session
            if self._name is None:
                await self._join(session, budget)
            elif self._path() in self._backend.pulse.refused:
                raise Rejected("renew: NoAuth for our own node", backend="zookeeper", operation="attempt")
            # Asked for together: both are answered as things stand after our node was made.
            owned, entries = await asyncio.gather(
                self._own(session, budget), self._backend.standing(self._place, budget.left)
            )
            if not owned:
                continue
            names = [entry.name for entry in entries]
            if self._name not in names:
                self._forget()  # gone while we waited: begin anew
                continue
            before = await self._watch_before(names[: names.index(self._name)], budget)
            if before is None:
                continue
            if before:
                return Behind(alive=True, wait=LOOK_SECONDS)
            answer = await self._grant(session, budget)
            if answer is not None:
                return answer
        raise OutcomeUnknown(f"undecided after {ROUNDS} rounds", backend="zookeeper", operation="attempt")

    def hint(self) -> None:
        """An attempt may tell something new."""
        self._moved.set()

    async def changed(self) -> None:
        await self._moved.wait()

    async def revoked(self) -> None:
        path = self._path()
        if path is None or await self._backend.watches.add("node", path, self._moved, self.ttl / 3) is not None:
            await self._moved.wait()
        self._moved.clear()
        self.suspect = True

    async def confirm(self, grant: Grant) -> Confirmed | Lost:
        return await self._ask()

    async def proclaim(self, grant: Grant, metadata: str) -> Confirmed | Lost:
        data, acl = proclamation(self.candidate.id, metadata), self._backend.acl
        for _ in range(ROUNDS):
            own = self._path()
            if own is None:
                return _RESIGNED
            for write in (
                lambda transaction: transaction.set_data(self._place.proclaimed, data),
                lambda transaction: transaction.create(self._place.proclaimed, data, acl),
            ):

                def add(transaction: Any, path: str = own, write: Callable[[Any], None] = write) -> None:
                    transaction.check(path, -1)
                    write(transaction)

                mine, written = await self._client.commit("proclaim", add, self.ttl / 3)
                if isinstance(mine, NoNodeError):
                    return Lost("its node is gone")
                if not isinstance(written, Exception):
                    return Confirmed()
        raise OutcomeUnknown(f"undecided after {ROUNDS} rounds", backend="zookeeper", operation="proclaim")

    async def resign(self) -> None:
        self._watch_no_more()
        own = self._path()
        try:
            if self._unknown:
                session = await self._client.ready(READ_SECONDS, "resign")
                for _, path in await self._found(session, READ_SECONDS):
                    await self._delete(path)
            elif own is not None and self._session is not None and not self._session.over:
                await self._delete(own)
        except (Unavailable, OutcomeUnknown):
            raise
        except BackendError:
            self._backend.tainted = True  # it goes with its session
            self._forget(done=True)
            raise
        self._forget(done=True)

    def over(self) -> Lost | None:
        """Why there is no node of ours to keep, as far as that is known without asking."""
        if self._name is None or self._session is None:
            return _RESIGNED
        return _ENDED if self._session.over else None

    def renewed(self, beat: Beat | None) -> Renewed | Lost | Unknown:
        """What a beat says of our node; None: only what is known without one."""
        if (over := self.over()) is not None:
            return over
        path, session = self._path(), self._session
        assert session is not None
        if beat is not None and beat.session is not session:
            return _ENDED
        promise = session.lifeline.promise()
        if beat is None:
            told = self._reported
            if promise is None or told is None or promise.sent.boot <= told.sent.boot or self.suspect:
                return Unknown(OutcomeUnknown("nothing new was committed", backend="zookeeper", operation="renew"))
        elif path in beat.missing:
            return Lost("its node is gone")
        elif path in beat.refused:
            return Unknown(Rejected("no permission to read its own node", backend="zookeeper", operation="renew"))
        elif path not in beat.asked or promise is None:
            return Unknown(OutcomeUnknown("no answer yet that counts", backend="zookeeper", operation="renew"))
        else:
            self.suspect = False
        self._reported = promise
        return Renewed(promise)

    # --- attempting ------------------------------------------------------------------------------------------

    async def _join(self, session: ServerSession, budget: Budget) -> None:
        """Have a node of ours: the one of an earlier try, if it came through, else a new one."""
        if self._unknown:
            found = await self._found(session, budget.left)
            if found:
                (_, path), *others = found
                for _, other in others:
                    await self._delete(other)
                self._name, self._unknown = path.rpartition("/")[2], False
                return
            self._unknown = False
        self._backend.held.add(self)
        data, acl = data_of(self.candidate), self._backend.acl
        prefix = self._place.prefix(self._guid)
        self._unknown = True  # until an answer says what became of it
        made: str | None = None
        try:
            while made is None:
                try:
                    made = await self._client.write(
                        "attempt",
                        lambda kazoo: kazoo.create_async(prefix, data, acl, ephemeral=True, sequence=True),
                        budget.left,
                    )
                except NoNodeError:
                    made = await self._join_first(prefix, data, budget)
        except OutcomeUnknown:
            raise
        except BackendError:
            self._unknown = False
            self._backend.let_go(self)
            raise
        self._name, self._unknown = made.rpartition("/")[2], False

    async def _join_first(self, prefix: str, data: bytes, budget: Budget) -> str | None:
        """As the first candidate that this election has had; None: another has just been the first."""
        acl, parent = self._backend.acl, self._place.path

        def add(transaction: Any) -> None:
            transaction.create(parent, b"", acl)
            transaction.create(prefix, data, acl, ephemeral=True, sequence=True)

        made, path = await self._client.commit("attempt", add, budget.left)
        if isinstance(made, NoNodeError):
            raise self._backend.no_chroot("attempt")
        if isinstance(made, NodeExistsError):
            return None
        if isinstance(path, Exception):
            raise OutcomeUnknown(f"not made: {path!r}", backend="zookeeper", operation="attempt") from path
        return str(path)

    async def _own(self, session: ServerSession, budget: Budget) -> bool:
        """Watch our node and learn its czxid; False if it is not there, or not of this session."""
        path = self._path()
        assert path is not None
        stat = await self._backend.watches.add("node", path, self._moved, budget.left)
        if stat is None:
            self._forget()
            return False
        if stat.ephemeralOwner != session.number:  # asked for just when the session ended, and made in the next one
            self._name, self._unknown, self._session = None, True, None
            return False
        self._token = stat.czxid
        return True

    async def _found(self, session: ServerSession, seconds: float) -> list[tuple[int, str]]:
        """Our nodes that belong to the session: czxid and path, oldest first. Nothing of ours can come after it."""
        # A write that changes nothing: it commits behind all that this session has asked for, or not at all. A sync is
        # answered at once by a leader that was deposed and does not know it.
        parent = self._place.path
        await self._client.commit("barrier", lambda transaction: transaction.check(parent, -1), seconds, refusals=True)
        entries = await self._backend.standing(self._place, seconds)
        paths = [self._place.node(entry.name) for entry in entries if entry.guid == self._guid]
        stats = await asyncio.gather(*(self._backend.stat(path, seconds) for path in paths))
        return sorted(
            (stat.czxid, path)
            for path, stat in zip(paths, stats, strict=True)
            if stat is not None and stat.ephemeralOwner == session.number
        )

    async def _watch_before(self, names: Sequence[str], budget: Budget) -> bool | None:
        """Watch the nearest candidate before us. False if there is none; None if it went just now."""
        for number, name in reversed(list(enumerate(names))):
            path = self._place.node(name)
            stat = await self._backend.watches.add("node", path, self._moved, budget.left)
            if stat is None:
                return None
            if stat.ephemeralOwner != 0:  # else somebody has made it by hand: no candidate
                if self._before not in (None, path):
                    self._backend.watches.drop("node", str(self._before), self._moved)
                self._before = path
                own = self._path()
                assert own is not None
                if number == 0:
                    self._backend.pulse.nodes.add(own)  # the next to lead is to be ready for it
                return True
        return False

    async def _grant(self, session: ServerSession, budget: Budget) -> Grant | Behind | None:
        """The win, with what its session still promises; None if our node is gone again."""
        path, clock = self._path(), self._backend.host.clock
        if session.over or path is None:  # while the nodes were listed
            return None
        self._backend.pulse.nodes.add(path)
        promise = session.lifeline.promise()
        if promise is None or promise.remaining(clock.now()) < ENOUGH * session.timeout:
            beat = await bounded(self._backend.pulse.beat(), max(0.0, budget.left), "attempt")
            answer = self.renewed(beat)
            if isinstance(answer, Lost):
                self._forget()
                return None
            if isinstance(answer, Unknown) or answer.promise.remaining(clock.now()) < ENOUGH * session.timeout / 2:
                return Behind(alive=False, wait=0.1 * session.timeout)  # a later beat will prove what this one began
            promise = answer.promise
        self.suspect, self._reported = False, promise
        return Grant(self, self._token, promise, ttl=session.timeout, pace=PACE * session.timeout)

    async def _ask(self) -> Confirmed | Lost:
        answer = self.over() or self.renewed(await self._backend.pulse.beat())
        if isinstance(answer, Unknown):
            raise OutcomeUnknown("the session has just been made", backend="zookeeper", operation="confirm")
        return answer if isinstance(answer, Lost) else Confirmed()

    async def _delete(self, path: str) -> None:
        try:
            await self._client.write("resign", lambda kazoo: kazoo.delete_async(path), READ_SECONDS)
        except NoNodeError:
            return

    # --- what we have ----------------------------------------------------------------------------------------

    @property
    def timeout(self) -> float:
        """Seconds, of the session that our node belongs to."""
        return self.ttl if self._session is None else self._session.timeout

    def _path(self) -> str | None:
        return None if self._name is None else self._place.node(self._name)

    def _forget(self, *, done: bool = False) -> None:
        """Our node is gone. `done`: so is whatever may have been made beside it."""
        self._watch_no_more()
        if (path := self._path()) is not None:
            self._backend.pulse.nodes.discard(path)
        self._name, self._token = None, 0
        if done:
            self._unknown = False
            self._backend.let_go(self)

    def _watch_no_more(self) -> None:
        watches = self._backend.watches
        for path in (self._path(), self._before):
            if path is not None:
                watches.drop("node", path, self._moved)
        self._before = None


def guarantees(address: Address) -> Guarantees:
    """What ZooKeeper promises."""
    return _GUARANTEES


def connect(address: Address, host: Host, ttl: float) -> Backend:
    """A client of the ensemble, not yet connected; `ttl` is the timeout that its session asks for."""
    acl = acl_of(address.option("acl", "open"))
    return ZooKeeperBackend(target_of(address, ttl), chroot_of(address), host, address.drift, acl)


_GUARANTEES: Final = Guarantees(
    backend="zookeeper",
    token="the czxid of the leader's node: it rises with every write of the ensemble",
    fifo=True,
    survives=(
        "a candidate that is killed, paused, cut off or dropped",
        "any minority of the servers killed, paused, cut off or restarted",
        "the server that a candidate talks to paused or cut off from the others",
        "a majority of the servers down: nobody leads until it is back",
        "lost and late replies",
    ),
    not_covered=(
        "servers that grant sessions of less than two ticks, or not all the same limits of a session's timeout",
        "a leader's node deleted by hand: its term ends when the watch tells, at most after ttl/6",
        "candidates that talk to an observer which learns from a follower (observerMasterPort)",
        "programs of Apache Curator: they go by what the servers last told them, not by a clock",
        "more than 2**31 candidates of one election, programs of Apache Curator among them: those lose the order",
        "an ensemble restored from a backup or made anew: its zxids, and so the tokens, may fall",
        "a virtual machine that is paused, copied or restored",
    ),
)
