"""Candidates of the control: one small program that leads by a peer, or by coordkit, and writes while it leads.

The rule: each peer is used as its documentation tells, with its defaults but for the time after which a crashed leader
is followed, and what it lets its user believe is written down, no more.

- kazoo 2.11, `Election.run`. Nothing ends the function that leads, so the belief lasts until it returns. Defaults:
  session timeout 10 s (here the ttl), connection and command retries as they come, no listener.
- pottery 3.0.1, `with Redlock(…)`. The block is not told that its time is over. Defaults: `auto_release_time` 10 s
  (here the ttl), 3 extensions, clock drift factor 0.01, a new try after up to 0.2 s, redis-py's own timeouts. A block
  is over within 0.6 of that time, as its README asks; a new `Redlock` for each block, as it advises.

Elections whose name begins with `careful` are led by a user who does all that the documentation offers beside: of kazoo
a listener, by which SUSPENDED and LOST end the function; of pottery `locked()` before each write, whose answer is how
long the belief lasts, and `extend()` every half of the time.

coordkit leads in the same program, and its writes go through a fence. It does not look at its term before a write: what
keeps a stale write out is the fence alone.

Neither peer has a token: a term's number is its place in the order of entries, of which each is told when its body is
entered. So tokens rise, and judge nothing.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordkit.clock import system_clock
from coordkit.journal import FileJournal
from coordkit.model import encode_election
from tests.support.children import say

CAREFUL = "careful"
NAP = 0.05  # s from one write to the next
NEVER = 1e9  # s: the deadline of a belief that nothing ends
LEAVE = threading.Event()  # SIGTERM: bodies return, and nobody contends again


def contend(peer: str, folder: str, url: str, ttl: str, seed: str, stays: str, *elections: str) -> None:
    """In all elections at once, again and again, until SIGTERM. `stays`: which part leads for longer than a ttl."""
    signal.signal(signal.SIGTERM, lambda *_: LEAVE.set())
    journal = FileJournal(os.environ["COORDKIT_JOURNAL"])
    candidates: dict[str, type[Candidate]] = {"kazoo": ByKazoo, "pottery": ByPottery, "coordkit": ByCoordkit}
    lead = candidates[peer](Path(folder), url, float(ttl), journal)
    say("contends", os.getpid())
    chances = [random.Random(f"{seed} {election}") for election in elections]
    threads = [
        threading.Thread(target=lead.lead_again_and_again, args=(election, chance, float(stays)))
        for election, chance in zip(elections, chances, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:  # once the main thread has ended, pottery can start no work
        thread.join()


class Resource:
    """What leaders write to, without a fence: it takes each write, and keeps their order.

    A line is a record of the journal's form, `accepted` or `refused`.
    """

    def __init__(self, folder: Path, election: str) -> None:
        self.name = encode_election(election)
        self._election = election
        self._writes = FileJournal(str(folder / f"writes-{self.name}"))
        self._entries = os.open(folder / f"entries-{self.name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def enter(self) -> int:
        """The place of one more entry in the order of all."""
        os.write(self._entries, b".")
        return os.lseek(self._entries, 0, os.SEEK_CUR)

    def told(self, event: str, token: int) -> None:
        """One write: its line is the write."""
        self._writes.write(event, election=self._election, token=token, resource=self.name, write=uuid.uuid4().hex)


class Lines:
    """The journal of one entry of a peer."""

    def __init__(self, journal: FileJournal, election: str) -> None:
        self._journal, self._election, self._entry = journal, election, uuid.uuid4().hex
        journal.write("campaign", entry=self._entry, election=election, candidate=str(os.getpid()))

    def won(self, token: int, ttl: float, sent: float, deadline: float) -> None:
        fields = {"candidate": str(os.getpid()), "token": token, "ttl": ttl, "sent": sent, "deadline": deadline}
        self._journal.write("won", entry=self._entry, election=self._election, **fields)

    def renewed(self, token: int, sent: float, deadline: float) -> None:
        fields = {"token": token, "at": sent, "sent": sent, "deadline": deadline}
        self._journal.write("renewed", entry=self._entry, election=self._election, **fields)

    def over(self, token: int, lost: str = "") -> None:
        """The belief ends here and now: `lost`, why, or resigned."""
        event, more = ("lost", {"reason": lost}) if lost else ("resigned", {})
        self._journal.write(event, entry=self._entry, election=self._election, token=token, at=boot(), **more)


def boot() -> float:
    """A reading of the clock that the journal is written by."""
    return system_clock().now().boot


def rests(seconds: float) -> Iterator[None]:
    """So many seconds in naps; a pause of the process makes them no fewer."""
    while seconds > 0 and not LEAVE.is_set():
        nap = min(seconds, NAP)
        LEAVE.wait(nap)
        seconds -= nap
        yield


class Candidate(ABC):
    """Of one process, for all its elections."""

    def __init__(self, folder: Path, url: str, ttl: float, journal: FileJournal) -> None:
        self.folder, self.url, self.ttl, self.journal = folder, url, ttl, journal

    @abstractmethod
    def lead(self, election: str, resource: Resource, seconds: float) -> None:
        """Contend, and once elected write for so long."""

    def lead_again_and_again(self, election: str, chance: random.Random, stays: float) -> None:
        resource = Resource(self.folder, election)
        while not LEAVE.is_set():
            longer = chance.random() < stays
            self.lead(election, resource, chance.uniform(1.0, 2.0) * self.ttl if longer else chance.uniform(0.05, 0.3))


class ByKazoo(Candidate):
    """By `kazoo.recipe.election.Election`."""

    def __init__(self, folder: Path, url: str, ttl: float, journal: FileJournal) -> None:
        from kazoo.client import KazooClient
        from kazoo.handlers.threading import KazooTimeoutError

        super().__init__(folder, url, ttl, journal)
        self._interruptions = 0
        where = urlsplit(url)
        while True:
            self._client = KazooClient(hosts=where.netloc + where.path, timeout=ttl)
            self._client.add_listener(self._listen)
            with suppress(KazooTimeoutError):  # after 15 s, its default: the servers were in trouble
                self._client.start()
                return

    def _listen(self, state: str) -> None:
        from kazoo.protocol.states import KazooState

        if state in (KazooState.SUSPENDED, KazooState.LOST):
            self._interruptions += 1

    def lead(self, election: str, resource: Resource, seconds: float) -> None:
        from kazoo.exceptions import KazooException

        lines = Lines(self.journal, election)
        careful = election.startswith(CAREFUL)

        def body() -> None:
            before = self._interruptions
            if careful and not self._client.connected:
                return
            token, now = resource.enter(), boot()
            lines.won(token, self.ttl, now, now + NEVER)
            say("leads", os.getpid(), election)
            resource.told("accepted", token)
            for _ in rests(seconds):
                if careful and self._interruptions != before:
                    lines.over(token, "interrupted")
                    return
                resource.told("accepted", token)
            lines.over(token)

        try:
            self._client.Election(f"/{encode_election(election)}", str(os.getpid())).run(body)
        except KazooException as error:  # from acquiring, or from giving back what was lost
            note(error)


class ByPottery(Candidate):
    """By `pottery.Redlock`."""

    def __init__(self, folder: Path, url: str, ttl: float, journal: FileJournal) -> None:
        import redis

        super().__init__(folder, url, ttl, journal)
        logging.getLogger("pottery").setLevel(logging.CRITICAL)  # else a traceback for each voter that is down
        self._masters = {redis.Redis.from_url(f"redis://{host}/0") for host in urlsplit(url).netloc.split(",")}

    def lead(self, election: str, resource: Resource, seconds: float) -> None:
        import pottery

        lines = Lines(self.journal, election)
        lock = pottery.Redlock(key=resource.name, masters=self._masters, auto_release_time=self.ttl)
        lead = self._carefully if election.startswith(CAREFUL) else self._plainly
        try:
            with lock:
                lead(lock, lines, election, resource, seconds)
        except pottery.ReleaseUnlockedLock as error:  # the first that it is told of its loss
            note(error)

    def _plainly(self, _: Any, lines: Lines, election: str, resource: Resource, seconds: float) -> None:
        token, now = resource.enter(), boot()
        lines.won(token, self.ttl, now, now + NEVER)
        say("leads", os.getpid(), election)
        resource.told("accepted", token)
        for _ in rests(min(seconds, 0.6 * self.ttl)):
            resource.told("accepted", token)
        lines.over(token)

    def _carefully(self, lock: Any, lines: Lines, election: str, resource: Resource, seconds: float) -> None:
        import pottery

        sent = boot()
        left = lock.locked()
        if not left:
            return
        token = resource.enter()
        lines.won(token, self.ttl, sent, sent + left)
        say("leads", os.getpid(), election)
        resource.told("accepted", token)
        extended = time.monotonic()
        for _ in rests(seconds):
            if time.monotonic() - extended > self.ttl / 2:
                try:
                    lock.extend()
                except pottery.PrimitiveError as error:
                    note(error)
                    lines.over(token, "not extended")
                    return
                extended = time.monotonic()
            sent = boot()
            left = lock.locked()
            if not left:
                lines.over(token, "not locked")
                return
            lines.renewed(token, sent, sent + left)
            resource.told("accepted", token)
        lines.over(token)


class ByCoordkit(Candidate):
    """By `coordkit.LeaderElector`; its own journal is the record."""

    def __init__(self, folder: Path, url: str, ttl: float, journal: FileJournal) -> None:
        super().__init__(folder, url, ttl, journal)
        self._electors: dict[str, Any] = {}

    def lead(self, election: str, resource: Resource, seconds: float) -> None:
        from coordkit import LeaderElector, LeadershipLost, StaleToken, Unavailable
        from coordkit.fencing import FileFence

        fence = FileFence(self.folder / f"resource-{resource.name}")
        elector = self._electors.get(election)
        if elector is None:
            elector = self._electors[election] = LeaderElector(self.url, election, ttl=self.ttl)

        def write(token: Any) -> None:
            def accepted(_: bytes) -> bytes:
                resource.told("accepted", int(token))
                return str(token).encode()

            try:
                fence.update(token, accepted)
            except StaleToken:
                resource.told("refused", int(token))
            except Unavailable as error:  # another was stopped in the middle of its write
                note(error)

        try:
            with elector.lead() as term:
                say("leads", os.getpid(), election)
                write(term.token)
                for _ in rests(seconds):
                    write(term.token)
                    if not term.valid:
                        break
        except LeadershipLost:
            return


def note(error: Exception) -> None:
    """For those who read what candidates complain of."""
    os.write(2, f"{os.getpid()}: {error!r}\n".encode())
