"""What there is to look at in an ensemble of ZooKeeper: its servers, what they grant, whether we may contend there.

The rule: nothing is written. Rights are tried out by a transaction whose last step must fail, which takes back the
others. The servers are asked one by one where they may differ, and the ensemble where it has one answer.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from kazoo.exceptions import InvalidACLError, NoAuthError, NoNodeError, SessionClosedRequireSaslError

from coordkit.backends.contract import Backend
from coordkit.backends.zookeeper.adapter import ZooKeeperBackend
from coordkit.backends.zookeeper.layout import Place, entries_of, guid_of
from coordkit.backends.zookeeper.probe import LONGEST, SHORTEST, Server, fields, granted, version_of, word
from coordkit.backends.zookeeper.target import PORT, chroot_of, target_of
from coordkit.errors import BackendError, Rejected, Unavailable
from coordkit.findings import Check, Finding, count, failed, of_error, ok, some, spare, unchecked, warning
from coordkit.registry import Address
from coordkit.waiting import Budget

PROBE_SECONDS: Final = 3.0  # for one server to answer all that it is asked
READ_SECONDS: Final = 2.0
ELECTIONS_LOOKED_AT: Final = 200
NODES_LOOKED_AT: Final = 500
TICKS: Final = 2  # a session's timeout is to have so many
OLDEST: Final = (3, 5)
OLDEST_TRIED: Final = (3, 8)
LAST: Final = 2**31  # so many candidates of one election are numbered
NEARLY: Final = LAST - 2**28
PROCLAIMED: Final = "%proclaimed"
RESERVED: Final = "zookeeper"


def checks(backend: Backend, address: Address, ttl: float) -> Sequence[Check]:
    """Each thing that an election relies on; the servers one by one first."""
    assert isinstance(backend, ZooKeeperBackend)
    ensemble = Ensemble(backend, address, ttl)
    return [
        Check("servers", ensemble.servers),
        Check("versions", ensemble.versions),
        Check("timeout", ensemble.timeout),
        Check("connection", ensemble.connection),
        Check("ensemble", ensemble.size, needs="connection"),
        Check("chroot", ensemble.chroot, needs="connection"),
        Check("nodes", ensemble.nodes, needs="chroot"),
        Check("rights", ensemble.rights, needs="chroot"),
    ]


@dataclass(frozen=True, slots=True)
class Probed:
    """What one server has told. `trouble`: why it has not; `least`, `most`: the timeouts that it grants, in seconds."""

    server: str
    trouble: str = ""
    least: float = 0.0
    most: float = 0.0
    version: str = ""
    mode: str = ""
    tick: float | None = None


class Ensemble:
    """One ensemble, being looked at. What one check has learned another need not ask again."""

    def __init__(self, backend: ZooKeeperBackend, address: Address, ttl: float) -> None:
        self._backend = backend
        self._client = backend.client
        self._host = backend.host
        self._ttl = ttl
        self._chroot = chroot_of(address)
        target = target_of(address, ttl)
        self._servers = [Server(name, port or PORT, target.context, target.server_name) for name, port in address.hosts]
        self._probed: list[Probed] = []
        self._elections: list[Place] = []

    # --- the servers, one by one -----------------------------------------------------------------------------

    async def servers(self, seconds: float) -> Sequence[Finding]:
        """Which servers of the URL serve."""
        found = await self._all(seconds)
        down = [f"{each.server} ({each.trouble})" for each in found if each.trouble]
        well = len(found) - len(down)
        modes = Counter(each.mode for each in found if each.mode)
        told = f"{well} of {len(found)} servers of the URL serve"
        told += f" ({', '.join(f'{number} {mode}' for mode, number in sorted(modes.items()))})" if modes else ""
        told += f"; not {some(down, 3)}" if down else ""
        remedy = "start those servers, or the network to them"
        if well == len(found):
            return [ok("servers", told, "each of them serves a candidate")]
        if 2 * well > len(found):
            meaning = spare((len(found) - 1) // 2 - len(down))
            return [warning("servers", told, meaning, remedy)]
        return [failed("servers", told, "without a majority of the servers nobody can win, and terms end", remedy)]

    async def versions(self, seconds: float) -> Sequence[Finding]:
        """Which versions the servers have."""
        return [judged(await self._all(seconds))]

    async def timeout(self, seconds: float) -> Sequence[Finding]:
        """Which timeouts of a session the servers grant; all the same, and not less than two ticks."""
        return granted_to(self._ttl, await self._all(seconds))

    async def _all(self, seconds: float) -> list[Probed]:
        if not self._probed:
            most = min(PROBE_SECONDS, 0.8 * seconds)
            self._probed = await asyncio.gather(*(_probe(server, most) for server in self._servers))
        return self._probed

    # --- the ensemble ----------------------------------------------------------------------------------------

    async def connection(self, seconds: float) -> Sequence[Finding]:
        """Whether a session is granted, and its server follows a leader: a `sync` goes there."""
        budget = Budget(self._host.clock, 0.9 * seconds)
        while True:
            try:
                session = await self._client.ready(max(0.0, budget.left), "open")
                self._backend.pulse.start()
                await self._read(lambda kazoo: kazoo.sync_async("/"), "open")
            except Unavailable as error:  # a server may greet, and only then refuse: why is told to who asks again
                if budget.left <= 0:
                    return [of_error("connection", error)]
            except BackendError as error:
                if isinstance(error.__cause__, SessionClosedRequireSaslError):
                    error = Rejected("the servers ask for a login by SASL", backend="zookeeper", operation="open")
                return [of_error("connection", error)]
            else:
                told = f"a session with a timeout of {session.timeout:g} s"
                return [ok("connection", told, "a candidate gets in, and its requests are answered")]

    async def size(self, seconds: float) -> Sequence[Finding]:
        """How many servers vote, by the ensemble's own list."""
        try:
            data, _ = await self._read(lambda kazoo: kazoo.get_async(f"/{RESERVED}/config"), "ensemble")
        except NoNodeError:
            return [unchecked("ensemble", "the servers keep no list of themselves, as before 3.5")]
        voters, observers = size_of(data.decode(errors="replace"))
        told = f"{count(voters, 'server')} that vote" if voters > 1 else "1 server, by itself"
        told += f", {count(observers, 'observer')}" if observers else ""
        if voters == 1:
            return [
                warning("ensemble", told, "while it is down nobody leads", "make it three, if that must not happen")
            ]
        findings = []
        if voters % 2 == 0:
            meaning = f"no more may be down than of {voters - 1}: {(voters - 1) // 2}"
            findings.append(warning("ensemble", told, meaning, "remove one, or add one"))
        if len(self._servers) < voters:
            meaning = "if those that are named are down, a candidate finds nobody, although the ensemble is well"
            names = f"{told}; the URL names {len(self._servers)}"
            findings.append(warning("ensemble", names, meaning, "name all servers in the URL"))
        return findings or [ok("ensemble", told, f"{(voters - 1) // 2} may be down")]

    # --- what lies there -------------------------------------------------------------------------------------

    async def chroot(self, seconds: float) -> Sequence[Finding]:
        """Whether the path of the URL is there, and can have elections under it."""
        root = self._chroot or "/"
        stat = await self._backend.stat(root, READ_SECONDS)
        if stat is None:
            meaning = "coordkit makes no chroot, for a mistyped one would be an election of its own: nobody leads"
            return [failed("chroot", f"{root} does not exist", meaning, "create it, or name another in the URL")]
        if stat.ephemeralOwner:
            meaning = "an ephemeral node has no children: nobody can contend"
            return [failed("chroot", f"{root} is an ephemeral node", meaning, "name a lasting one in the URL")]
        return [
            ok("chroot", f"{root} is there, {count(stat.numChildren, 'child', 'children')}", "elections lie under it")
        ]

    async def nodes(self, seconds: float) -> Sequence[Finding]:
        """What lies under the chroot, and what of it is not of the layout."""
        children = await self._read(lambda kazoo: kazoo.get_children_async(self._chroot or "/"), "nodes")
        names = [name for name in sorted(children) if self._chroot or name != RESERVED]
        survey = Survey()
        paths = []
        for name in names:
            place = self._place(name.removesuffix(PROCLAIMED))
            if place is None:
                survey.strange.append(f"{self._chroot}/{name}")
            elif not name.endswith(PROCLAIMED):
                paths.append(place)
        for place in paths[:ELECTIONS_LOOKED_AT]:
            await self._survey(place, survey)
        self._elections = survey.elections
        told = f"{count(len(survey.elections), 'election')}, {count(survey.candidates, 'candidate')}"
        told += f"; the first {ELECTIONS_LOOKED_AT} were looked at" if len(paths) > ELECTIONS_LOOKED_AT else ""
        findings = []
        if survey.worn:
            told_worn = f"nearly 2^31 candidates, or more, were there in {some(survey.worn)}"
            meaning = "servers from 3.8 on count no further: coordkit's keep their order, Apache Curator's do not"
            remedy = "delete the election's node while it has no candidate, and raise the fences by hand"
            findings.append(warning("nodes", told_worn, meaning, remedy))
        if survey.strange:
            told_strange = f"{count(len(survey.strange), 'node')} not of the layout: {some(survey.strange, 3)}"
            meaning = "they are nobody's candidacy and never counted"
            findings.append(warning("nodes", told_strange, meaning, "give the elections a chroot of their own"))
        return [*findings, ok("nodes", told, "candidates are known by their nodes")]

    async def rights(self, seconds: float) -> Sequence[Finding]:
        """Whether we may make an election, and contend in those that are there."""
        guid = guid_of(self._host.chance.getrandbits(128))
        never = f"{self._chroot}/coordkit-doctor-{guid}-never"
        new = f"{self._chroot}/coordkit-doctor-{guid}"
        acl = self._backend.acl
        made = (await self._tried(never, lambda transaction: transaction.create(new, b"", acl)))[0]
        if isinstance(made, InvalidACLError):
            meaning = "no node can be made with these rights: nobody can lead"
            return [failed("rights", "the servers refuse the option acl", meaning, "correct it, or log in")]
        shut = [place.election for place in self._elections if not await self._may_contend(place, never)]
        if shut:
            told = f"no right to read, or to create and delete nodes, in {some(shut)}"
            remedy = "grant this user cdr on those nodes, or correct the user"
            return [warning("rights", told, "a candidate with this URL is refused there, and can never lead", remedy)]
        if isinstance(made, NoAuthError):
            told = f"no right to create nodes under {self._chroot or '/'}"
            remedy = "grant this user c on the chroot, or make the elections' nodes for it"
            if self._elections:
                meaning = "no new election can be made, and nothing be proclaimed for the first time"
                return [warning("rights", told, meaning, remedy)]
            return [failed("rights", told, "a candidate with this URL is refused, and can never lead", remedy)]
        told = "nodes may be made under the chroot" + (", and in all elections there" if self._elections else "")
        return [ok("rights", told, "a candidate with this URL can lead")]

    async def _may_contend(self, place: Place, never: str) -> bool:
        node = f"{place.path}{never.removeprefix(self._chroot)}"

        def add(transaction: Any) -> None:
            transaction.create(node, b"", self._backend.acl, ephemeral=True)
            transaction.delete(node)

        try:
            await self._read(lambda kazoo: kazoo.get_children_async(place.path), "rights")
        except NoNodeError:
            return True  # gone meanwhile
        except Rejected:
            return False
        return not any(isinstance(result, NoAuthError) for result in await self._tried(never, add))

    async def _tried(self, never: str, add: Callable[[Any], None]) -> list[Any]:
        """What would become of these steps: a last one that must fail takes them back."""

        def all_of_them(transaction: Any) -> None:
            add(transaction)
            transaction.check(never, -1)

        return await self._client.commit("rights", all_of_them, READ_SECONDS, refusals=True)

    async def _survey(self, place: Place, survey: Survey) -> None:
        try:
            children, stat = await self._read(
                lambda kazoo: kazoo.get_children_async(place.path, include_data=True), "nodes"
            )
        except (NoNodeError, Rejected) as error:  # gone meanwhile; or `rights` tells of it
            survey.elections += [place] if isinstance(error, Rejected) else []
            return
        entries = entries_of(children)
        known = {entry.name for entry in entries}
        others = [place.node(name) for name in children if name not in known]
        if others and not entries:
            survey.strange.append(place.path)  # somebody else's, with whatever lies there
            return
        survey.elections.append(place)
        survey.strange += others
        room = max(0, NODES_LOOKED_AT - survey.candidates)
        stats = await asyncio.gather(
            *(self._backend.stat(place.node(entry.name), READ_SECONDS) for entry in entries[:room])
        )
        looked_at = list(zip(entries, stats, strict=False))
        by_hand = [
            place.node(entry.name) for entry, found in looked_at if found is not None and not found.ephemeralOwner
        ]
        survey.strange += by_hand
        survey.candidates += len(entries) - len(by_hand)
        if made_so_far(stat.cversion, stat.numChildren) >= NEARLY:
            survey.worn.append(place.election)

    def _place(self, name: str) -> Place | None:
        """The election of this encoded name; None if no election is encoded so."""
        try:
            place = Place(self._chroot, unquote(name, errors="strict"))
        except UnicodeDecodeError:
            return None
        return place if place.path == f"{self._chroot}/{name}" else None

    async def _read(self, send: Callable[[Any], Any], operation: str) -> Any:
        return await self._client.read(operation, send, READ_SECONDS)


class Survey:
    """What was seen under a chroot, so far."""

    def __init__(self) -> None:
        self.elections: list[Place] = []
        self.candidates = 0
        self.strange: list[str] = []
        self.worn: list[str] = []


def judged(probed: Sequence[Probed]) -> Finding:
    """What the versions of the servers mean."""
    found = [each for each in probed if not each.trouble]
    silent = [each.server for each in found if not each.version]
    numbers = Counter(each.version for each in found if each.version)
    if not numbers:
        return unchecked("versions", "no server tells its version (by the word srvr)")
    told = ", ".join(f"{version} ({number})" for version, number in sorted(numbers.items()))
    told += f"; unknown of {some(silent)}" if silent else ""
    parsed = {version: _parsed(version) for version in numbers}
    remedy = "go to a release that is maintained, 3.8 or newer"
    if any(version < OLDEST for version in parsed.values()):
        return failed("versions", told, "it lacks what coordkit asks for: nobody can lead", remedy)
    if any(version < OLDEST_TRIED for version in parsed.values()):
        return warning("versions", told, "coordkit was never tried on it", remedy)
    return ok("versions", told, "coordkit's requests are understood")


def granted_to(ttl: float, probed: Sequence[Probed]) -> Sequence[Finding]:
    """What the servers' limits of a session's timeout mean for candidates with this ttl."""
    found = [each for each in probed if not each.trouble]
    if not found:
        return [unchecked("timeout", "no server serves")]
    limits = {(each.least, each.most) for each in found}
    if len(limits) > 1:
        told = "; ".join(f"{each.server}: {each.least:g} to {each.most:g} s" for each in found)
        meaning = "a session that goes to another server is shortened, and its node may go before its term is over"
        remedy = "give all servers the same tickTime, minSessionTimeout and maxSessionTimeout"
        return [failed("timeout", told, meaning, remedy)]
    ((least, most),) = limits
    given = min(max(ttl, least), most)
    tick = max((each.tick for each in found if each.tick is not None), default=None)
    told = f"{given:g} s are granted for a ttl of {ttl:g} s; the limits are {least:g} and {most:g} s"
    if tick is None:
        silent = unchecked("timeout", "no server tells its tick: allow the word conf (4lw.commands.whitelist)")
        return [_given(told, ttl, given), silent]
    told += f"; a tick is {tick:g} s"
    if given < TICKS * tick:
        meaning = f"less than {TICKS} ticks: the servers may end a session before its term is over"
        return [failed("timeout", told, meaning, f"take a ttl of {TICKS * tick:g} s or more, or a shorter tick")]
    if least < TICKS * tick:
        meaning = f"a candidate with a ttl below {TICKS * tick:g} s would be granted it, and not be safe"
        return [warning("timeout", told, meaning, f"set minSessionTimeout to {TICKS} ticks")]
    return [_given(told, ttl, given)]


def _given(told: str, ttl: float, given: float) -> Finding:
    if abs(given - ttl) > 0.001:
        meaning = f"after a crash another leads after {given:g} s, not {ttl:g} s"
        return warning("timeout", told, meaning, "take a ttl within the limits, or change tickTime")
    return ok("timeout", told, "deadlines follow what is granted")


def size_of(config: str) -> tuple[int, int]:
    """How many servers vote, and how many only observe, by the ensemble's list of itself; a single one has none."""
    listed = [line.partition(";")[0] for line in config.splitlines() if line.startswith("server.")]
    observers = sum(line.endswith(":observer") for line in listed)
    return max(1, len(listed) - observers), observers


def made_so_far(cversion: int, children: int) -> int:
    """How many children a node has ever had, modulo 2^31.

    Its `cversion` is twice that number less those that are there, in 32 bits. Source: ZooKeeper's DataNode.
    """
    return (cversion + children) % 2**32 // 2


async def _probe(server: Server, seconds: float) -> Probed:
    try:
        async with asyncio.timeout(seconds):
            try:
                least, most = await _limits(server)
            except ConnectionError:  # one hang-up tells of a moment, two of the server
                least, most = await _limits(server)
            srvr, conf = await _told(server, "srvr"), await _told(server, "conf")
    except TimeoutError:
        return Probed(server.shown, f"no answer within {seconds:.3g} s")
    except OSError as error:
        return Probed(server.shown, os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    tick = fields(conf, "=").get("tickTime", "")
    return Probed(
        server.shown,
        "",
        least,
        most,
        version_of(srvr),
        fields(srvr, ": ").get("Mode", ""),
        int(tick) / 1000 if tick.isdecimal() else None,
    )


async def _limits(server: Server) -> tuple[float, float]:
    return await granted(server, SHORTEST), await granted(server, LONGEST)


async def _told(server: Server, text: str) -> str:
    try:
        return await word(server, text)
    except OSError:  # it need not answer words
        return ""


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
