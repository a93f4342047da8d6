"""What interrupted, failed and ended campaigns leave at the servers and in their process: no node, no watch, no task.

The rule: before a test nothing is there (the fixture sees to it), so whatever is found afterwards was left. Nodes and
watches are counted by the servers.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any

import pytest

from coordkit import LeaderElector
from coordkit.testing.contract import eventually
from tests.integration import etcd_orphan_scenes as any_store
from tests.integration import zookeeper_orphan_scenes as scenes
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper
from tests.support.children import Child
from tests.support.storms import bad_line, outcomes, seeded

pytestmark = [pytest.mark.once, pytest.mark.backend("zookeeper"), pytest.mark.timeout(120)]

TTL = 6.0


def left(zookeeper: ZooKeeper[Any]) -> list[str]:
    """The nodes of candidates."""
    return [node.path for node in zookeeper.nodes() if node.ephemeral_owner]


def watches(zookeeper: ZooKeeper[Any]) -> int:
    """How many the servers keep: one for each path and session."""
    return sum(round(zookeeper.metrics(member)["watch_count"]) for member in zookeeper.members)


@pytest.mark.stress
def test_hundreds_of_interrupted_campaigns_on_one_session(zookeeper: ZooKeeper[Any]) -> None:
    """By Ctrl-C and by cancellation, at any instant of waiting, winning, leading and leaving."""
    times = 600
    with Child(any_store.storm, zookeeper.url(), seeded(), times) as child:
        seen = outcomes(child.expect("outcomes", 100))
        print(seen)
        assert child.expect("sessions") == "1"
        eventually(lambda: not left(zookeeper), "no node is left, though the session is open", any_store.TTL)
        assert len(zookeeper.sessions()) == 1
        assert watches(zookeeper) == 0
        child.tell("close")
        assert child.expect("engine") == "alive"
        assert child.expect("tasks") == ""
        assert child.expect("sockets") == "0"
        assert child.expect("requests") == ""
        assert child.expect("sessions") == "0"
        assert not zookeeper.sessions()
        child.tell("end")
        assert child.exit_code() == 0
        swallowed = re.compile(r"^Exception ignored in: .*?^KeyboardInterrupt:? *\n", re.MULTILINE | re.DOTALL)
        errors = swallowed.sub("", child.errors)
        assert "Traceback" not in errors, errors
        assert " failed: " not in errors, errors
    for side in ("sync", "async"):
        assert seen.get(f"{side}-interrupted", 0) > times / 20, "the interrupts came too late to test anything"
        assert {name for name in seen if name.startswith(f"{side}-")} <= {
            f"{side}-{how}" for how in ("interrupted", "led", "behind")
        }


def looked_at(child: Child) -> dict[str, str]:
    """What it says that it has."""
    child.tell("look")
    return {what: child.expect(what) for what in ("threads", "sockets", "tasks", "watches", "held")}


def test_hundreds_of_campaigns_in_vain_behind_a_leader_that_stays(zookeeper: ZooKeeper[Any]) -> None:
    times = 300
    leader = LeaderElector(zookeeper.url(), "e", ttl=60.0)
    with leader.lead(timeout=TTL) as term:
        (held,) = left(zookeeper)
        mine = watches(zookeeper)
        with Child(scenes.in_vain, zookeeper.url(), TTL, seeded(), times) as child:
            before = looked_at(child)
            seen = outcomes(child.expect("outcomes", 100))
            print(seen)
            eventually(lambda: left(zookeeper) == [held], "all have left the queue", TTL)
            assert watches(zookeeper) <= mine + 1, "one on the leader's node, for it has not fired"
            after = looked_at(child)
            print(after)
            assert after["threads"] == before["threads"]
            assert after["tasks"] == ""
            assert (after["sockets"], after["held"]) == ("1", "0 0")
            assert after["watches"] in ("1 1", "0 0")
            assert len(zookeeper.sessions()) == 2
            child.tell("close")
            child.expect("closed")
            eventually(lambda: len(zookeeper.sessions()) == 1, "its session is ended", TTL / 2)
            assert watches(zookeeper) == mine
            assert "Traceback" not in child.errors, child.errors
        term.confirm()
        assert left(zookeeper) == [held]
    leader.close()
    assert seen["tried"] >= times
    assert seen["timed-out"] >= times / 2
    assert seen["cancelled"] >= times / 2 - 4
    assert "led" not in seen


def test_hundreds_of_campaigns_over_a_bad_line_leave_nothing_to_an_open_session(zookeeper: ZooKeeper[Any]) -> None:
    times, seed = 400, seeded()
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(member.host, member.port)) for member in zookeeper.members]
        url = f"zookeeper://{','.join(f'{proxy.host}:{proxy.port}' for proxy in proxies)}"
        child = stack.enter_context(Child(scenes.on_a_bad_line, url, 3 * TTL, seed, times))
        with bad_line(proxies, seed, b"-latch-"):
            seen = outcomes(child.expect("outcomes", 100))
            print(seen)
        eventually(lambda: not left(zookeeper), "no node is left, though the session is open", 3 * TTL)
        assert watches(zookeeper) == 0
        after = looked_at(child)
        print(after)
        assert (after["sockets"], after["watches"], after["held"]) == ("1", "0 0", "0 0")
        assert after["tasks"] == ""
        child.tell("close")
        child.expect("closed")
        assert "Traceback" not in child.errors, child.errors
    assert seen.get("timed-out", 0) > times / 10
    assert seen.get("led", 0) > times / 100  # few, where a busy machine makes most of them wait
