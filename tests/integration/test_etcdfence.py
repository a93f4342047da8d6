"""`EtcdFence` on a real cluster of three: check and write are one transaction, whoever else writes meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from coordkit import (
    ConfigError,
    FencingToken,
    LeaderElector,
    LeadershipLost,
    LossReason,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.engine import current
from coordkit.fencing import AsyncEtcdFence, EtcdFence
from coordkit.session import Keeper
from tests.servers.etcd import Etcd
from tests.support.together import together

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(90)]


def token(value: int, election: str = "e") -> FencingToken:
    return FencingToken(election, value)


@pytest.fixture
def fence(etcd: Etcd[Any]) -> Iterator[EtcdFence]:
    with EtcdFence(etcd.url()) as made:
        yield made


def stored(etcd: Etcd[Any]) -> dict[str, str]:
    return {key.key.decode(): key.value.decode() for key in etcd.keys("")}


# -- one writer ------------------------------------------------------------------------------------------


def test_a_higher_and_an_equal_token_write_a_stale_one_writes_nothing(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    for value in (5, 5, 7):
        fence.put("k", str(value), token(value))
    with EtcdFence(etcd.url()) as other:  # of another process, say: it has seen nothing
        for each in (fence, other):
            for stale in (
                lambda each=each: each.put("k", "6", token(6)),
                lambda each=each: each.delete("k", token(6)),
                lambda each=each: each.transact(token(6), {"a": "6"}, ["k"]),
                lambda each=each: each.admit(token(6)),
            ):
                with pytest.raises(StaleToken) as caught:
                    stale()
                assert (caught.value.offered, caught.value.newest) == (token(6), token(7))
        assert stored(etcd) == {"k": "7", "e.fence": "7"}
        other.put("k", "9", token(9))
    with pytest.raises(StaleToken) as caught:
        fence.put("k", "8", token(8))  # which this one has not seen yet
    assert caught.value.newest == token(9) == fence.newest("e")
    assert stored(etcd) == {"k": "9", "e.fence": "9"}


def test_each_call_writes_what_it_says(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    fence.put("k", b"", token(1))
    fence.put(b"x", "1", token(1))
    fence.delete("k", token(1))
    fence.delete("k", token(1))
    fence.transact(token(2), {"a": "1", "b": "2"}, ["x", "never there"])
    fence.transact(token(2))
    assert stored(etcd) == {"a": "1", "b": "2", "e.fence": "2"}
    (kept,) = [key for key in etcd.keys("") if key.key == b"e.fence"]
    assert kept.lease == 0


def test_the_largest_tokens_and_odd_names(fence: EtcdFence) -> None:
    fence.admit(token(2**63 - 1))
    with pytest.raises(StaleToken):
        fence.admit(token(2**63 - 2))
    fence.admit(token(9, "f"))
    fence.admit(token(10, "f"))
    names = ["E", "é", "e/f", "e ", "e%", "e%2Ff", "e.fence"]
    for number, name in enumerate(names, 1):
        fence.admit(token(number, name))
    assert [fence.newest(name) for name in names] == [token(number, name) for number, name in enumerate(names, 1)]
    assert fence.newest("other") is None


def test_a_fence_is_in_no_elections_way(etcd: Etcd[Any]) -> None:
    """Its key is nobody's candidate, whatever elections and prefixes are called."""
    with EtcdFence(etcd.url("app")) as fence:
        for election in ("e", "e.fence", "e/x"):
            fence.admit(token(1, election))
        for election in ("e", "e.fence", "e/x", "app"):
            elector = LeaderElector(etcd.url("app"), election, ttl=5)
            with elector.lead(timeout=10) as term:
                assert elector.candidates() == (term.candidate,)
            elector.close()


def test_one_round_trip_but_for_the_first(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    fence.put("k", "0", token(1))

    def calls() -> dict[str, float]:
        name = (
            'grpc_server_handled_total{grpc_code="OK",grpc_method="%s",'
            'grpc_service="etcdserverpb.KV",grpc_type="unary"}'
        )
        return {
            method: sum(etcd.metrics(member).get(name % method, 0.0) for member in etcd.members)
            for method in ("Txn", "Put", "Range")
        }

    before = calls()
    for number in range(10):
        fence.put("k", str(number), token(1))
    assert {method: count - before[method] for method, count in calls().items()} == {"Txn": 10, "Put": 0, "Range": 0}


# -- only while it leads ---------------------------------------------------------------------------------


def test_while_leading_a_write_is_refused_once_the_leaders_key_is_gone(etcd: Etcd[Any]) -> None:
    elector = LeaderElector(etcd.url(), "e", ttl=5)
    with EtcdFence(etcd.url(), "e", while_leading=True) as fence, EtcdFence(etcd.url()) as plain:
        with elector.lead(timeout=10) as term:
            fence.put("k", "led", term.token)
            fence.put("k", "led again", term.token)
        for each in (fence, EtcdFence(etcd.url(), while_leading=True)):  # who knows the key, and who looks for it
            with each, pytest.raises(LeadershipLost) as caught:
                each.put("k", "late", term.token)
            assert caught.value.reason is LossReason.REVOKED
        assert stored(etcd)["k"] == "led again"
        plain.put("k", "nobody else leads yet", term.token)
        with elector.lead(timeout=10) as successor:
            fence.put("k", "successor", successor.token)
            with pytest.raises((StaleToken, LeadershipLost)):
                fence.put("k", "late", term.token)
        assert stored(etcd)["k"] == "successor"
    elector.close()


def test_while_leading_a_leader_whose_key_is_deleted_under_it_writes_no_more(etcd: Etcd[Any]) -> None:
    elector = LeaderElector(etcd.url(), "e", ttl=30)
    with EtcdFence(etcd.url(), while_leading=True) as fence:
        term = elector.campaign(timeout=10)
        fence.put("k", "led", term.token)
        (key,) = [key.key.decode() for key in etcd.keys("e/")]
        etcd.ctl("del", key)
        etcd.ctl("put", key, "somebody else's")
        with pytest.raises(LeadershipLost):
            fence.put("k", "late", term.token)
        assert stored(etcd)["k"] == "led"
    elector.close()


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", "rubbish", "0", "-1", "05", "1.5", "9223372036854775808", "7 ", "9" * 1000])
def test_foreign_data_under_the_fences_key(fence: EtcdFence, etcd: Etcd[Any], odd: str) -> None:
    etcd.ctl("put", "e.fence", "--", odd)
    for call in (
        lambda: fence.put("k", "5", token(5)),
        lambda: fence.newest("e"),
        lambda: fence.admit(token(5)),
    ):
        with pytest.raises(Misconfigured, match="holds no token"):
            call()
    assert stored(etcd) == {"e.fence": odd}


def test_foreign_data_that_come_later(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    fence.put("k", "5", token(5))
    etcd.ctl("put", "e.fence", "rubbish")
    with pytest.raises(Misconfigured, match="holds no token"):
        fence.put("k", "6", token(5))
    etcd.ctl("put", "e.fence", "8")  # by hand, or by a fence elsewhere
    with pytest.raises(StaleToken):
        fence.put("k", "6", token(5))
    assert stored(etcd)["k"] == "5"


def test_a_fence_that_would_vanish_with_a_lease_is_none(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    lease = etcd.ctl("lease", "grant", "100").split()[1]
    etcd.ctl("put", f"--lease={lease}", "e.fence", "5")
    with pytest.raises(Misconfigured, match="holds no token"):
        fence.put("k", "6", token(6))


def test_who_empties_the_store_or_lowers_the_fence_is_believed(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    """The danger that the docs name: what an operator does before writers go on."""
    fence.put("k", "7", token(7))
    etcd.ctl("del", "", "--prefix")
    fence.put("k", "6", token(6))
    fence.overwrite(token(7))
    with pytest.raises(StaleToken):
        fence.put("k", "6", token(6))
    fence.overwrite(token(3))
    fence.put("k", "3", token(3))


@pytest.mark.local_cluster
def test_users_without_rights(etcd: Etcd[Any]) -> None:
    etcd.add_user("app", "secret", "app/")
    etcd.enable_auth()
    try:
        with EtcdFence(etcd.url("app", user="app", password="secret")) as fence:
            fence.put("app/k", "1", token(1))
            with pytest.raises(Rejected):
                fence.put("elsewhere", "1", token(1))
        with EtcdFence(etcd.url("app", user="app", password="wrong")) as nobody, pytest.raises(Rejected) as caught:
            nobody.admit(token(1))
        assert "wrong" not in str(caught.value)
    finally:
        etcd.disable_auth()


def test_a_value_that_is_too_large(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    with pytest.raises(Rejected):
        fence.put("k", b"x" * 2_000_000, token(1))
    fence.put("k", b"x", token(1))


def test_no_majority_and_recovery(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    fence.put("k", "1", token(1))
    for member in etcd.members[:2]:
        member.pause()
    with EtcdFence(etcd.url(), timeout=1) as hasty, pytest.raises((Unavailable, OutcomeUnknown)):
        hasty.put("k", "2", token(1))
    for member in etcd.members[:2]:
        member.resume()
    etcd.ready()
    fence.admit(token(1))
    fence.put("k", "3", token(1))
    assert stored(etcd)["k"] == "3"


def test_arguments_that_make_no_sense(etcd: Etcd[Any]) -> None:
    for url in ("redis://h", "etcd://", 5, "sqlite:///x"):
        with pytest.raises(ConfigError):
            EtcdFence(url)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        EtcdFence("etcd://127.0.0.1:1", "")
    with pytest.raises(ConfigError):
        EtcdFence("etcd://127.0.0.1:1", timeout=0)
    fence = EtcdFence("etcd://somebody:secret@127.0.0.1:1", "e")  # where nobody is: there is no I/O
    for call in (
        *(lambda odd=odd: fence.put("k", "v", odd) for odd in (5, "e=5", None, token(1, "f"))),
        *(lambda odd=odd: fence.put(odd, "v", token(1)) for odd in ("", b"", 5, None, "\ud800")),
        *(lambda odd=odd: fence.put("k", odd, token(1)) for odd in (5, None, "\ud800")),
        lambda: fence.put("e.fence", "5", token(1)),
        lambda: fence.delete(b"e.fence", token(1)),
        lambda: fence.transact(token(1), {"k": "1"}, ["k"]),
        lambda: fence.transact(token(1), {"k": "1", b"k": "2"}),
        lambda: fence.transact(token(1), {}, "k"),
        lambda: fence.transact(token(1), {str(number): "1" for number in range(121)}),
        lambda: fence.newest(""),
        lambda: fence.overwrite(7),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            call()
    assert repr(fence) == "<EtcdFence etcd://127.0.0.1:1>"
    fence.close()


# -- several ---------------------------------------------------------------------------------------------


def test_eight_writers_with_interleaved_tokens(etcd: Etcd[Any]) -> None:
    """Each write has a key of its own: they were created in the order of their tokens, and none was lost."""
    writers, accepted = 8, []

    def write(number: int) -> None:
        with EtcdFence(etcd.url()) as fence:
            for step in range(40):
                value = 1 + step * writers + number
                try:
                    fence.put(f"log/{value}", "x", token(value))
                except StaleToken:
                    continue
                accepted.append(value)

    together({f"writer {number}": partial(write, number) for number in range(writers)})
    log = [int(key.key.removeprefix(b"log/")) for key in etcd.keys("log/")]
    assert log == sorted(log) == sorted(accepted)
    assert log


def test_the_same_promises_by_asyncio(etcd: Etcd[Any]) -> None:
    async def scene() -> None:
        async with AsyncEtcdFence(etcd.url()) as fence:
            await fence.put("k", "5", token(5))
            await fence.transact(token(5), {"a": "1"})
            await fence.delete("a", token(5))
            await fence.admit(token(6))
            with pytest.raises(StaleToken):
                await fence.put("k", "4", token(5))
            assert await fence.newest("e") == token(6)
            with pytest.raises(ConfigError):
                await fence.put("", "4", token(6))
            many = await asyncio.gather(*(fence.put(f"m{number}", "1", token(6)) for number in range(20)))
            assert len(many) == 20

    asyncio.run(scene())
    assert stored(etcd)["k"] == "5"


def test_it_shares_the_connection_of_the_electors_and_lets_go_of_it(etcd: Etcd[Any]) -> None:
    others = set(current().sessions)  # of earlier tests: they may still be closing
    url = etcd.url("shared")  # with nobody else

    def mine() -> list[Keeper]:
        return [keeper for keeper in current().sessions if keeper not in others]

    elector = LeaderElector(url, "e", ttl=5)
    fence = EtcdFence(url)
    with elector.lead(timeout=10) as term:
        fence.put("k", "1", term.token)
        assert len(mine()) == 1
    elector.close()
    fence.put("k", "2", term.token)  # the session lives on
    assert len(mine()) == 1
    fence.close()
    assert mine() == []
    fence.put("k", "3", term.token)
    assert len(mine()) == 1
    del fence
    gc.collect()
    current().ask(lambda: asyncio.sleep(0.0))
    assert [keeper for keeper in mine() if keeper in current().keepers.values()] == []


def test_a_leader_shows_its_token_before_its_body_begins(fence: EtcdFence, etcd: Etcd[Any]) -> None:
    elector = LeaderElector(etcd.url(), "e", ttl=10, fences=[fence])
    with elector.lead(timeout=10) as term:
        assert fence.newest("e") == term.token
    fence.admit(token(int(term.token) + 10**9))
    with pytest.raises(StaleToken), elector.lead(timeout=10):
        pytest.fail("the body ran under a token that the resource refuses")
    elector.close()
