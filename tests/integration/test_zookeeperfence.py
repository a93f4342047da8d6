"""`ZooKeeperFence` on a real ensemble of three: check and write are one multi, whoever else writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError
from kazoo.security import make_acl, make_digest_acl

from coordkit import (
    ConfigError,
    FencingToken,
    LeaderElector,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
)
from coordkit.fencing import ZooKeeperFence
from tests.servers.zookeeper import ZooKeeper
from tests.support.together import together
from tests.support.zookeeper_hand import hand

pytestmark = [pytest.mark.backend("zookeeper"), pytest.mark.timeout(90)]

NODE = "/coordkit-fences/e"


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@pytest.fixture
def client(zookeeper: ZooKeeper[Any]) -> Iterator[Any]:
    """The caller's client."""
    with hand(zookeeper) as made:
        made.create("/k", b"0")
        yield made


@pytest.fixture
def fence(client: Any) -> ZooKeeperFence:
    return ZooKeeperFence(client)


def data(client: Any, path: str = "/k") -> str:
    return str(client.get(path)[0].decode())


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_write_a_stale_one_writes_nothing(
    fence: ZooKeeperFence, client: Any, zookeeper: ZooKeeper[Any]
) -> None:
    for value in (5, 5, 7):
        fence.set("/k", str(value), token(value))
    with hand(zookeeper) as others:
        other = ZooKeeperFence(others)  # of another process, say: it has seen nothing
        for each in (fence, other):
            for stale in (
                lambda each=each: each.set("/k", "6", token(6)),
                lambda each=each: each.create("/new", "6", token(6)),
                lambda each=each: each.delete("/k", token(6)),
                lambda each=each: each.transact(token(6), lambda multi: multi.set_data("/k", b"6")),
                lambda each=each: each.admit(token(6)),
            ):
                with pytest.raises(StaleToken) as caught:
                    stale()
                assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
        assert (data(client), client.exists("/new")) == ("7", None)
        other.set("/k", "9", token(9))
    with pytest.raises(StaleToken) as caught:
        fence.set("/k", "8", token(8))  # which this one has not seen yet
    assert caught.value.newest == token(9) == fence.newest("e")
    assert data(client) == "9"
    assert (data(client, NODE), client.get_children(NODE)) == ("9", ["9"])


def test_each_call_writes_what_it_says(fence: ZooKeeperFence, client: Any) -> None:
    fence.create("/a", b"\xff", token(1))
    assert client.get("/a")[0] == b"\xff"
    fence.set("/a", "", token(1), version=0)
    fence.delete("/a", token(1), version=1)
    results = fence.transact(token(2), lambda multi: (multi.create("/a", b"1"), multi.create("/b", b"2")))
    assert results == ["/a", "/b"]
    assert fence.transact(token(2), lambda _: None) == []
    assert (data(client, "/a"), data(client, "/b")) == ("1", "2")


def test_what_is_said_of_the_callers_own_operations_is_kazoos(fence: ZooKeeperFence, client: Any) -> None:
    fence.set("/k", "1", token(1))
    for call, kind in (
        (lambda: fence.set("/k", "2", token(1), version=0), BadVersionError),
        (lambda: fence.set("/absent", "2", token(2)), NoNodeError),
        (lambda: fence.create("/k", "2", token(3)), NodeExistsError),
        (lambda: fence.delete("/k", token(4), version=77), BadVersionError),
    ):
        with pytest.raises(kind):
            call()
    assert data(client) == "1"
    assert fence.newest("e") == token(1)  # nor was the token remembered: all or nothing


def test_the_largest_tokens_and_odd_names(fence: ZooKeeperFence) -> None:
    fence.admit(token(2**63 - 1))
    with pytest.raises(StaleToken):
        fence.admit(token(2**63 - 2))
    fence.admit(token(9, "f"))
    fence.admit(token(10, "f"))
    names = ["E", "é", "e/f", "e ", "e%", "e%2Ff", "zookeeper", "\U0001f600", "\ufff0"]
    for number, name in enumerate(names, 1):
        fence.admit(token(number, name))
    assert [fence.newest(name) for name in names] == [token(number, name) for number, name in enumerate(names, 1)]
    assert fence.newest("other") is None


def test_one_round_trip_but_for_the_first(
    fence: ZooKeeperFence, client: Any, zookeeper: ZooKeeper[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def received() -> float:
        return sum(zookeeper.metrics(member)["packets_received"] for member in zookeeper.members)

    fence.set("/k", "0", token(1))
    calls: list[object] = []
    call = client._call
    monkeypatch.setattr(client, "_call", lambda request, result: (calls.append(request), call(request, result))[1])
    before = received()
    asked = received() - before  # by the question itself
    before += asked
    for number in range(10):
        fence.set("/k", str(number), token(1))
    assert received() - before <= 10 + asked + 3  # a ping now and then
    assert len(calls) == 10


# -- a node that is not what it was ----------------------------------------------------------------------


def test_a_fence_that_was_made_again_is_not_taken_for_the_one_that_was_seen(
    fence: ZooKeeperFence, client: Any, zookeeper: ZooKeeper[Any]
) -> None:
    """Its version counts from 0 once more, and is the one that the stale writer has seen."""
    fence.set("/k", "5", token(5))
    with hand(zookeeper) as others:
        others.delete(NODE, recursive=True)
        ZooKeeperFence(others).set("/k", "7", token(7))
        assert others.get(NODE)[1].version == 0
        for stale in (5, 6):  # the token that was seen, and one between
            with pytest.raises(StaleToken):
                fence.set("/k", "stale", token(stale))
            fence._seen["e"] = type(fence._seen["e"])(token(5), 0)
    assert data(client) == "7"


def test_who_empties_the_store_or_lowers_the_fence_is_believed(fence: ZooKeeperFence, client: Any) -> None:
    """The danger that the docs name: what an operator does before writers go on."""
    fence.set("/k", "7", token(7))
    client.delete("/coordkit-fences", recursive=True)
    fence.set("/k", "6", token(6))
    fence.overwrite(token(7))
    with pytest.raises(StaleToken):
        fence.set("/k", "6", token(6))
    fence.overwrite(token(3))
    fence.set("/k", "3", token(3))


@pytest.mark.parametrize("odd", ["", "rubbish", "0", "-1", "05", "1.5", "9223372036854775808", "7 ", "9" * 1000])
def test_foreign_data_in_the_fences_node(fence: ZooKeeperFence, client: Any, odd: str) -> None:
    client.create(NODE, odd.encode(), makepath=True)
    for call in (
        lambda: fence.set("/k", "5", token(5)),
        lambda: fence.newest("e"),
        lambda: fence.overwrite(token(5)),
    ):
        with pytest.raises(Misconfigured, match="holds no token"):
            call()
    assert (data(client), data(client, NODE)) == ("0", odd)


def test_a_node_that_was_changed_by_hand(fence: ZooKeeperFence, client: Any) -> None:
    fence.set("/k", "5", token(5))
    client.set(NODE, b"\xff")
    with pytest.raises(Misconfigured, match="holds no token"):
        fence.set("/k", "6", token(5))
    client.set(NODE, b"8")
    with pytest.raises(StaleToken):
        fence.set("/k", "6", token(6))
    with pytest.raises(Misconfigured, match="lacks its child 8"):
        fence.set("/k", "9", token(9))
    assert data(client) == "5"
    client.delete("/coordkit-fences", recursive=True)
    client.create("/coordkit-fences")
    client.create(NODE, b"5", ephemeral=True)
    with pytest.raises(Misconfigured, match="holds no token"):
        fence.set("/k", "6", token(6))


# -- what is refused -------------------------------------------------------------------------------------


def test_users_without_rights(zookeeper: ZooKeeper[Any], client: Any) -> None:
    owner = make_digest_acl("somebody", "else", all=True)
    client.create("/theirs", b"0", acl=[owner, make_acl("world", "anyone", read=True)])
    with pytest.raises(Rejected) as caught:
        ZooKeeperFence(client).set("/theirs", "1", token(1))
    assert (caught.value.backend, caught.value.operation) == ("zookeeper", "set")
    with pytest.raises(Rejected):
        ZooKeeperFence(client, path="/theirs/fences").admit(token(1))
    assert data(client, "/theirs") == "0"


def test_no_majority_and_recovery(fence: ZooKeeperFence, client: Any, zookeeper: ZooKeeper[Any]) -> None:
    fence.set("/k", "1", token(1))
    for member in zookeeper.members[:2]:
        member.pause()
    with pytest.raises(OutcomeUnknown):
        ZooKeeperFence(client, timeout=0.5).set("/k", "2", token(1))
    for member in zookeeper.members[:2]:
        member.resume()
    zookeeper.ready()
    ZooKeeperFence(client, timeout=30).set("/k", "3", token(1))
    assert data(client) == "3"


def test_a_client_that_is_not_started(zookeeper: ZooKeeper[Any]) -> None:
    client = KazooClient(",".join(zookeeper.endpoints))
    with pytest.raises(OutcomeUnknown):
        ZooKeeperFence(client, timeout=0.5).admit(token(1))
    client.close()


def test_arguments_that_make_no_sense(client: Any) -> None:
    for odd in (None, "zookeeper://h", object()):
        with pytest.raises(ConfigError):
            ZooKeeperFence(odd)
    for odd_path in ("", "/", "fences", "/a//b", "/a/../b", 5, "/a\0", "/\ud800"):
        with pytest.raises(ConfigError):
            ZooKeeperFence(client, path=odd_path)  # type: ignore[arg-type]
    fence = ZooKeeperFence(client, "e")
    for call in (
        *(lambda odd=odd: fence.set("/k", "v", odd) for odd in (5, "e=5", None, token(1, "f"))),
        *(lambda odd=odd: fence.set(odd, "v", token(1)) for odd in ("", "/", "k", 5, "/a/./b", "/\ud800")),
        *(lambda odd=odd: fence.set("/k", odd, token(1)) for odd in (5, None, "\ud800", b"x" * 1_000_001)),
        *(lambda odd=odd: fence.set("/k", "v", token(1), version=odd) for odd in (-2, 1.5, None, 2**31)),
        lambda: fence.set(NODE, "5", token(1)),
        lambda: fence.delete("/coordkit-fences", token(1)),
        lambda: fence.transact(token(1), lambda multi: multi.delete(f"{NODE}/1")),
        lambda: fence.transact(token(1), None),  # type: ignore[arg-type]
        lambda: fence.newest(""),
        lambda: fence.overwrite(7),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            call()
    assert data(client) == "0"
    assert repr(fence) == "<ZooKeeperFence '/coordkit-fences'>"


def test_within_a_chroot(zookeeper: ZooKeeper[Any], client: Any) -> None:
    client.create("/app/k", b"0", makepath=True)
    with hand(zookeeper) as within:
        within.chroot = "/app"
        fence = ZooKeeperFence(within)
        fence.set("/k", "5", token(5))
        with pytest.raises(ConfigError, match="fence's own"):
            fence.transact(token(5), lambda multi: multi.set_data(NODE, b"1"))
    assert (data(client, "/app/k"), data(client, f"/app{NODE}")) == ("5", "5")


# -- several ---------------------------------------------------------------------------------------------


def test_eight_writers_with_interleaved_tokens(zookeeper: ZooKeeper[Any], client: Any) -> None:
    """Each write has a node of its own: they were made in the order of their tokens, and none was lost."""
    client.create("/log")
    writers, accepted = 8, []

    def write(number: int) -> None:
        with hand(zookeeper) as own:
            fence = ZooKeeperFence(own, timeout=30)
            for step in range(40):
                value = 1 + step * writers + number
                try:
                    fence.create(f"/log/{value}", b"", token(value))
                except StaleToken:
                    continue
                accepted.append(value)

    together({f"writer {number}": partial(write, number) for number in range(writers)})
    made = {int(name): client.exists(f"/log/{name}").czxid for name in client.get_children("/log")}
    log = sorted(made, key=made.__getitem__)
    assert log == sorted(log) == sorted(accepted)
    assert log


def test_a_leader_shows_its_token_before_its_body_begins(fence: ZooKeeperFence, zookeeper: ZooKeeper[Any]) -> None:
    elector = LeaderElector(zookeeper.url(), "e", ttl=10, fences=[fence])
    with elector.lead(timeout=20) as term:
        assert fence.newest("e") == term.token
    fence.admit(token(int(term.token) + 10**9))
    with pytest.raises(StaleToken), elector.lead(timeout=20):
        pytest.fail("the body ran under a token that the resource refuses")
    elector.close()
