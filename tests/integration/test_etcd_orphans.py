"""What interrupted, failed and ended processes leave in etcd: no keys and no leases, each counted by etcd itself.

The rule: before a test nothing is there (the fixture sees to it), so whatever is found afterwards was left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from coordkit import (
    CampaignTimeout,
    LeaderElector,
    LeadershipLost,
    LossReason,
    Session,
)
from coordkit.backends.contract import Backend, Grant, Renewed
from coordkit.engine import current
from coordkit.registry import connect, parse
from coordkit.testing.contract import Running, candidate, eventually, interrupted_at
from tests.integration import etcd_orphan_scenes as scenes
from tests.integration import exit_scenes, fork_scenes
from tests.servers.etcd import Etcd
from tests.servers.proxy import Proxy
from tests.support.children import Child, took
from tests.support.etcdctl import AT_ONCE, Etcdctl

pytestmark = [pytest.mark.once, pytest.mark.backend("etcd"), pytest.mark.timeout(120)]

T = TypeVar("T")

TTL = 6.0
LATE_CREATES = 15  # tries until one has come late


@pytest.fixture
def proxies(etcd: Etcd[Any]) -> Iterator[list[Proxy]]:
    """One on the way to each member."""
    with ExitStack() as stack:
        yield [stack.enter_context(Proxy(member.host, member.port)) for member in etcd.members]


def through(proxies: Sequence[Proxy], prefix: str) -> str:
    return f"etcd://{','.join(f'{each.host}:{each.port}' for each in proxies)}/{prefix}"


def in_use(proxies: Sequence[Proxy]) -> Proxy:
    """The one on the way to the member that a session has chosen, once it has let go of the others."""
    eventually(lambda: sorted(each.open_now for each in proxies) == [0, 0, 1], "one connection")
    return next(each for each in proxies if each.open_now)


def idle() -> bool:
    """Whether the engine has no clean-up under way."""
    return not any(keeper._cleaning or keeper._releasing for keeper in current().sessions)


# -- a create that comes late ------------------------------------------------------------------------------------------


def test_a_create_that_appears_after_the_resign_is_removed(etcd: Etcd[Any]) -> None:
    for number in range(1, LATE_CREATES + 1):
        if a_create_comes_late_and_is_removed(etcd, f"late-{number}"):
            print(f"met in try {number}")
            break
    else:
        pytest.fail("never met: this proves nothing")
    eventually(lambda: not etcd.leases(), "no lease is left")


def a_create_comes_late_and_is_removed(etcd: Etcd[Any], prefix: str) -> bool:
    """The member that is asked hands the create to etcd's leader, which is stopped, and goes on when all is over.

    False if it never came: the leader of old had it and lost it with its office.
    """
    ttl = 8.0
    leader = etcd.leader()
    url = etcd.url(prefix, members=[member for member in etcd.members if member.name != leader.name])
    holder, late = LeaderElector(url, "held", ttl=ttl), LeaderElector(url, "late", ttl=ttl)
    try:
        term = holder.campaign(timeout=ttl)
        (held,) = etcd.keys(f"{prefix}/held/")
        with Etcdctl(etcd, "watch", "--prefix", f"{prefix}/late/") as events:
            leader.pause()
            with pytest.raises(CampaignTimeout):
                late.campaign(timeout=0.25)
            etcd.leader(other_than=leader)
            eventually(idle, "it has resigned")
            assert not etcd.keys(f"{prefix}/late/"), "the create has not come yet"
            assert events.silent
            leader.resume()
            etcd.ready()
            came = events.maybe(1.0)
            if came is None:
                return False
            appeared = time.monotonic()
            assert came == "PUT"
            assert events.line() == f"{prefix}/late/{held.lease:x}", "under the lease that the session goes on with"
            assert events.line(), "its value"
            eventually(lambda: not etcd.keys(f"{prefix}/late/"), "it is removed", ttl)
            print(f"removed {time.monotonic() - appeared:.2f} s after it had appeared")
        term.confirm()
        assert etcd.keys(f"{prefix}/held/")[0].lease == held.lease
        began = time.monotonic()
        again = late.campaign(timeout=2 * ttl)
        print(f"a new campaign won within {time.monotonic() - began:.2f} s")
        again.resign()
        term.resign()
        return True
    finally:
        holder.close()
        late.close()


# -- replies that are lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
def test_a_lost_reply_to_the_winning_transaction_leaves_one_entry_that_wins(
    fault: str, etcd: Etcd[Any], proxies: list[Proxy]
) -> None:
    elector = LeaderElector(through(proxies, "lost-reply"), "won", ttl=TTL)
    another = LeaderElector(through(proxies, "lost-reply"), "before", ttl=TTL)
    another.campaign(timeout=TTL).resign()  # so that there is a lease
    asked = in_use(proxies)
    getattr(asked, fault)(after=b"lost-reply/won/")
    campaigning = Running(elector.campaign)
    asked.wait_for_request()
    eventually(lambda: len(etcd.keys("lost-reply/won/")) == 1, "etcd has the create")
    (created,) = etcd.keys("lost-reply/won/")
    with took(most=TTL / 3 + AT_ONCE):
        term = campaigning.result(TTL)
    (kept,) = etcd.keys("lost-reply/won/")
    assert (kept.key, kept.create_revision) == (created.key, created.create_revision)
    assert int(term.token) == created.create_revision
    assert json.loads(kept.value)["id"] == term.candidate.id
    term.confirm()
    asked.heal()
    term.resign()
    assert not etcd.keys("lost-reply/won/")
    elector.close()
    another.close()
    assert not etcd.leases()


def granted(etcd: Etcd[Any]) -> int:
    """How many leases the cluster has granted so far, by a member's own count."""
    return int(etcd.metrics(etcd.leader())["etcd_debugging_lease_granted_total"])


@pytest.mark.parametrize("fault", ["drop_replies", "hold_replies"])
def test_a_lost_reply_to_the_grant_of_a_lease_leaves_no_lease(
    fault: str, etcd: Etcd[Any], proxies: list[Proxy]
) -> None:
    session = Session(through(proxies, "grant")).open()
    elector = LeaderElector(session, "granted", ttl=TTL)
    asked = in_use(proxies)
    before = granted(etcd)
    getattr(asked, fault)(after=b"LeaseGrant")
    campaigning = Running(elector.campaign)
    asked.wait_for_request()
    term = campaigning.result(TTL)
    asked.heal()
    assert granted(etcd) == before + 2, "of one of them nobody was told"
    (key,) = etcd.keys("grant/granted/")
    eventually(lambda: etcd.leases() == [key.lease], "that one is revoked", TTL / 2)
    term.resign()
    session.close()
    assert not etcd.leases()


# -- cancelled at every await ------------------------------------------------------------------------------------------


def on_backend(url: str, main: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the engine with a backend of its own, and close that."""
    engine = current()

    async def run() -> T:
        backend = connect(parse(url), engine)
        await backend.open()
        try:
            return await main(backend)
        finally:
            await backend.close()

    return engine.ask(run, timeout=90.0)


async def interrupted(call: Callable[[], Coroutine[Any, Any, T]], number: int, *, late: bool) -> tuple[int, T] | None:
    """As `interrupted_at` in a task of its own; None if it was cancelled."""

    async def work() -> tuple[int, T]:
        waits: tuple[int, T] = await interrupted_at(call(), number, late=late)
        return waits

    try:
        return await asyncio.create_task(work())
    except asyncio.CancelledError:
        return None


async def at_every_await(make: Callable[[], Awaitable[Callable[[], Awaitable[object]]]], what: str) -> int:
    """Cancel what `make` makes at its first await, at its second, … until it comes to its end. How many there were.

    `make` gives a fresh call each time; it is called once more after it was cancelled.
    """
    most = 0
    for late in (False, True):
        for number in itertools.count(1):
            call = await make()

            async def once(call: Callable[[], Awaitable[object]] = call) -> object:
                return await call()

            ended = await interrupted(once, number, late=late)
            if ended is not None:
                most = max(most, ended[0])
                break
            await call()
    print(f"{what}: cancelled at each of {most} awaits")
    return most


def test_a_resign_cancelled_at_any_await_and_tried_again_leaves_nothing(etcd: Etcd[Any]) -> None:
    async def main(backend: Backend) -> None:
        async def led() -> Callable[[], Awaitable[object]]:
            assert not await current().offload(lambda: etcd.keys("cancelled/e/")), "the one before has left nothing"
            candidacy = backend.candidacy("e", candidate("led"), TTL)
            assert isinstance(await candidacy.attempt(), Grant)
            return candidacy.resign

        async def queued() -> Callable[[], Awaitable[object]]:
            assert len(await current().offload(lambda: etcd.keys("cancelled/q/"))) == 1
            candidacy = backend.candidacy("q", candidate("queued"), TTL)
            await candidacy.attempt()
            return candidacy.resign

        assert await at_every_await(led, "resign of a leader") >= 1
        leader = backend.candidacy("q", candidate("leader"), TTL)
        assert isinstance(await leader.attempt(), Grant)
        assert await at_every_await(queued, "resign of a waiter") >= 1
        await leader.resign()

    on_backend(etcd.url("cancelled"), main)
    assert [key.key for key in etcd.keys("cancelled/") if key.lease] == []
    assert not etcd.leases()


def test_a_first_attempt_cancelled_at_any_await_leaves_no_lease(etcd: Etcd[Any]) -> None:
    """With a session of its own each time, so that the lease is granted in it."""
    engine = current()

    async def main() -> int:
        most = 0
        for late in (False, True):
            for number in itertools.count(1):
                backend = connect(parse(etcd.url("first")), engine)
                await backend.open()
                candidacy = backend.candidacy("e", candidate("first"), TTL)
                ended = await interrupted(candidacy.attempt, number, late=late)
                await candidacy.resign()
                await backend.close()
                left = await engine.offload(lambda: [each.key for each in etcd.keys("first/e/")])
                assert not left, f"keys, cancelled at await {number} ({late=})"
                leases = await engine.offload(etcd.leases)
                assert not leases, f"leases, cancelled at await {number} ({late=})"
                if ended is not None:
                    most = max(most, ended[0])
                    break
        return most

    assert engine.ask(main, timeout=90.0) >= 2


def test_questions_about_a_term_cancelled_at_any_await_do_it_no_harm(etcd: Etcd[Any]) -> None:
    async def main(backend: Backend) -> None:
        candidacy = backend.candidacy("e", candidate("asked"), TTL)
        grant = await candidacy.attempt()
        assert isinstance(grant, Grant)
        for what, call in {
            "renew": lambda: backend.renew([grant]),
            "confirm": lambda: candidacy.confirm(grant),
            "proclaim": lambda: candidacy.proclaim(grant, "news"),
        }.items():

            async def made(call: Callable[[], Awaitable[object]] = call) -> Callable[[], Awaitable[object]]:
                return call

            assert await at_every_await(made, what) >= 1
        (renewed,) = await backend.renew([grant])
        assert isinstance(renewed, Renewed)
        (key,) = await current().offload(lambda: etcd.keys("asked/e/"))
        assert (key.create_revision, json.loads(key.value)["proclaimed"]) == (grant.token, "news")
        assert await current().offload(etcd.leases) == [key.lease]
        await candidacy.resign()

    on_backend(etcd.url("asked"), main)
    assert not etcd.leases()


def test_a_close_cancelled_at_any_await_and_tried_again_leaves_no_lease(etcd: Etcd[Any]) -> None:
    engine = current()

    async def used() -> Callable[[], Awaitable[object]]:
        assert not await engine.offload(etcd.leases), "the one before has left nothing"
        backend = connect(parse(etcd.url("closed")), engine)
        await backend.open()
        for ttl in (TTL, 2 * TTL):
            candidacy = backend.candidacy("e", candidate("used"), ttl)
            assert isinstance(await candidacy.attempt(), Grant)
            await candidacy.resign()
        assert len(await engine.offload(etcd.leases)) == 2
        return backend.close

    async def main() -> int:
        return await at_every_await(used, "close")

    assert engine.ask(main, timeout=90.0) >= 1
    assert not etcd.leases()


@pytest.mark.stress
def test_hundreds_of_interrupted_campaigns_on_one_session(etcd: Etcd[Any]) -> None:
    seed, times = random.SystemRandom().getrandbits(32), 600
    print(f"seed {seed}")
    with Child(scenes.storm, etcd.url("storm"), seed, times) as child:
        outcomes = {
            name: int(number) for name, number in (each.split("=") for each in child.expect("outcomes", 100).split())
        }
        print(outcomes)
        assert child.expect("sessions") == "1"
        eventually(lambda: not entries(etcd, "storm/"), "no key is left, though the session is open", scenes.TTL + 1.0)
        print(f"{len(etcd.leases())} leases before close")
        child.tell("close")
        assert child.expect("engine") == "alive"
        assert not etcd.leases()
        assert child.expect("tasks") == ""
        assert child.expect("sockets") == "0"
        assert child.expect("requests") == ""
        assert child.expect("sessions") == "0"
        assert not entries(etcd, "storm/")
        child.tell("end")
        assert child.exit_code() == 0
        swallowed = re.compile(r"^Exception ignored in: .*?^KeyboardInterrupt:? *\n", re.MULTILINE | re.DOTALL)
        errors = swallowed.sub("", child.errors)
        assert "Traceback" not in errors, errors
        assert " failed: " not in errors, errors
    for side in ("sync", "async"):
        assert outcomes.get(f"{side}-interrupted", 0) > times / 20, "the interrupts came too late to test anything"
        assert {name for name in outcomes if name.startswith(f"{side}-")} <= {
            f"{side}-{how}" for how in ("interrupted", "led", "behind")
        }


def entries(etcd: Etcd[Any], prefix: str) -> list[bytes]:
    """The keys of candidates: those with a lease."""
    return [key.key for key in etcd.keys(prefix) if key.lease]


# -- processes that end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene", "arguments", "act", "code"),
    [
        (scenes.ends_without_close, (), "end", 0),
        (exit_scenes.ends_in_its_body, ("SystemExit",), "end", 7),
        (exit_scenes.ends_in_its_body, ("exception",), "end", 1),
        (exit_scenes.on_sigterm, (), "SIGTERM", 0),
        (exit_scenes.on_sigterm_async, (), "SIGTERM", 0),
    ],
    ids=["no close", "sys.exit in a block", "an exception in a block", "SIGTERM", "SIGTERM async"],
)
def test_a_process_that_ends_in_order_leaves_no_key_and_no_lease(
    scene: Callable[..., None], arguments: tuple[str, ...], act: str, code: int, etcd: Etcd[Any]
) -> None:
    with Child(scene, etcd.url("ends"), 60.0, *arguments) as child:
        line = child.line()
        if line == "contends":
            line = child.line()
        assert line.startswith("leads ")
        assert len(etcd.leases()) == 1
        if act == "SIGTERM":
            child.send(signal.SIGTERM)
        else:
            child.tell(act)
        with took(most=2 * AT_ONCE):
            assert child.exit_code() == code
        assert not entries(etcd, "ends/")
        assert not etcd.leases()
        assert ("Traceback" in child.errors) is (code == 1)
        assert_quiet(child)


def test_a_process_that_ends_while_it_waits_leaves_nothing(etcd: Etcd[Any]) -> None:
    leader = LeaderElector(etcd.url("ends"), "e", ttl=TTL)
    with leader.lead(timeout=TTL) as term:
        mine = etcd.leases()
        with Child(scenes.ends_waiting, etcd.url("ends"), 60.0) as child:
            eventually(lambda: len(entries(etcd, "ends/")) == 2, "it waits")
            child.tell("end")
            assert child.exit_code() == 0
            assert len(entries(etcd, "ends/")) == 1
            assert etcd.leases() == mine
            assert_quiet(child)
        term.confirm()
    leader.close()


def test_a_process_that_ends_at_once_leaves_its_lease_until_the_ttl(etcd: Etcd[Any]) -> None:
    ttl = 3.0
    with Child(scenes.ends_at_once, etcd.url("ends"), ttl) as child:
        child.expect("leads")
        child.tell("end")
        assert child.exit_code() == 9
        ended = time.monotonic()
        (key,) = entries(etcd, "ends/")
        (lease,) = etcd.leases()
        assert key.endswith(b"%x" % lease)
        eventually(lambda: not etcd.leases(), "it has run out", 3 * ttl)
        print(f"the lease of {ttl:g} s was gone after {time.monotonic() - ended:.2f} s")
        assert time.monotonic() - ended > ttl / 3
        assert not entries(etcd, "ends/")


def assert_quiet(child: Child) -> None:
    """gRPC and its event engine have written nothing of their own."""
    noise = [
        line for line in child.errors.splitlines() if re.search(r"fork_posix|\.cc:\d+\]|grpc", line, re.IGNORECASE)
    ]
    assert not noise, noise


# -- sessions that are closed ------------------------------------------------------------------------------------------


def test_a_session_closed_under_a_term_leaves_that_lease_to_its_time_and_no_other(etcd: Etcd[Any]) -> None:
    ttl = 3.0
    session = Session(etcd.url("closed"))
    term = LeaderElector(session, "open", ttl=ttl).campaign(timeout=ttl)
    for another in (60.0, 30.0):
        LeaderElector(session, "over", ttl=another).campaign(timeout=ttl).resign()
    (kept,) = etcd.keys("closed/open/")
    assert len(etcd.leases()) == 3
    began = time.monotonic()
    session.close()
    assert term.reason is LossReason.CLOSED
    assert etcd.leases() == [kept.lease], "its body may still run"
    assert entries(etcd, "closed/") == [kept.key]
    while etcd.leases():
        assert time.monotonic() - began < 3 * ttl, "nobody keeps it alive"
    print(f"gone {time.monotonic() - began:.2f} s after the close")
    assert time.monotonic() - began > ttl / 2  # it was renewed at most ttl/3 before the close
    assert not entries(etcd, "closed/")


def test_a_session_closed_under_a_block_keeps_the_entry_until_the_block_is_left(etcd: Etcd[Any]) -> None:
    session = Session(etcd.url("closed"))
    elector = LeaderElector(session, "open", ttl=TTL)
    LeaderElector(session, "over", ttl=60.0).campaign(timeout=TTL).resign()
    with pytest.raises(LeadershipLost), elector.lead(timeout=TTL) as term:
        (kept,) = etcd.keys("closed/open/")
        session.close()
        assert not term.valid
        assert entries(etcd, "closed/") == [kept.key]
        assert kept.lease in etcd.leases()
    eventually(lambda: not etcd.leases(), "the block is left", AT_ONCE)
    assert not entries(etcd, "closed/")


# -- forks -------------------------------------------------------------------------------------------------------------


def test_what_is_open_is_refused_in_a_forked_child_and_goes_on_in_the_parent(etcd: Etcd[Any]) -> None:
    with Child(scenes.open_term, etcd.url("forks")) as parent:
        assert parent.line() == "child 0"
        assert parent.line() == "child 0"
        assert parent.line() == "ended False []"
        assert parent.line() == "parent goes on"
        assert parent.exit_code() == 0
        assert "Traceback" not in parent.errors, parent.errors
        assert_quiet(parent)
    assert not entries(etcd, "forks/")
    assert not etcd.leases()


def test_children_forked_before_the_first_use_work(etcd: Etcd[Any]) -> None:
    with Child(fork_scenes.preload, etcd.url("forks")) as parent:
        led = [parent.expect("led").split() for _ in range(4)]
        assert parent.expect("exits") == "0 0 0 0"
        led.append(parent.expect("led").split())
        assert parent.exit_code() == 0
        assert parent.complaints == ""
    tokens = [int(token) for _, token, _ in led]
    assert tokens == sorted(set(tokens))
    assert not entries(etcd, "forks/")


def test_children_forked_after_the_first_use_are_refused_and_none_hangs(etcd: Etcd[Any]) -> None:
    """Even when all is closed: threads of gRPC go on for a while, and Python does not see them."""
    with Child(scenes.fork_after_use, etcd.url("forks"), 20) as parent:
        assert parent.expect("codes", 90.0) == "0 20"
        assert parent.exit_code() == 0
        assert "Traceback" not in parent.errors, parent.errors
        assert_quiet(parent)
    assert not etcd.leases()


def test_children_forked_while_the_application_uses_grpc_are_refused(etcd: Etcd[Any]) -> None:
    with Child(scenes.fork_beside_grpc, etcd.url("forks")) as parent:
        assert parent.expect("child") == "0"
        assert parent.expect("parent") == "leads"
        assert parent.exit_code() == 0
        assert_quiet(parent)
    assert not etcd.leases()


def test_other_programs_can_be_run_under_a_term(etcd: Etcd[Any]) -> None:
    with Child(scenes.other_processes, etcd.url("forks")) as parent:
        assert parent.expect("subprocess") == "plain ''"
        assert parent.expect("system") == "0"
        assert parent.line() == "spawned True"
        assert parent.expect("spawn") == "0"
        assert parent.expect("subprocess") == "forked ''"
        assert parent.expect("forks") == "0 100", "no child crashes that does nothing but end"
        assert parent.expect("parent") == "True"
        assert parent.exit_code() == 0
        assert_quiet(parent)
    assert not etcd.leases()
