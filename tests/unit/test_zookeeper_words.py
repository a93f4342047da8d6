"""The parts of the ZooKeeper harness that need no server: what servers say, and what is said to them."""

from __future__ import annotations

import struct

import pytest

from tests.servers.cluster import View
from tests.servers.zookeeper import ZooKeeper
from tests.servers.zookeeper_peers import Greeting
from tests.servers.zookeeper_wire import digest_md5, password
from tests.servers.zookeeper_words import Connection, Mode, Standing, connections, numbers, sessions, standing

SRVR = """\
Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2024-12-29 17:54 UTC
Latency min/avg/max: 0/0.0/0
Received: 6
Zxid: 0x100000002
Mode: follower
Node count: 5
"""
CONS = """\
 /127.0.0.1:57406[0](queued=0,recved=1,sent=0)
 /[0:0:0:0:0:0:0:1]:48620[1](queued=0,recved=4,sent=4,sid=0x300000e61a30000,lop=PING,est=1795570022994,to=8000,lcxid=0x2)

"""
DUMP = """\
SessionTracker dump:
Global Sessions(2):
0x100000e61880000\t8000ms
Session Sets (2)/(2):
1 expire at Wed Nov 25 01:19:06 UTC 2026:
\t0x100000e61880000
1 expire at Wed Nov 25 01:19:10 UTC 2026:
\t0x300000e61a30000
ephemeral nodes dump:
Sessions with Ephemerals (1):
0x500000000000000:
\t/a
Connections dump:
0x600000000000000
"""


def test_a_server_says_what_it_is() -> None:
    said = standing(SRVR)
    assert said == Standing(Mode.FOLLOWER, 0x100000002, "3.8.0")
    assert said.epoch == 1


@pytest.mark.parametrize("said", ["This ZooKeeper instance is not currently serving requests\n", "", "no\nsense\n"])
def test_who_does_not_serve_is_nothing(said: str) -> None:
    assert standing(said) is None


def test_numbers_are_told_from_words() -> None:
    lines = [
        "version\t3.8.0, built",
        "server_state\tleader",
        "watch_count\t3",
        "avg_latency\t0.25",
        "x\t1.5E-4",
        "y\t-1",
    ]
    mntr = "".join(f"zk_{line}\n" for line in lines)
    assert numbers(mntr) == {"watch_count": 3.0, "avg_latency": 0.25, "x": 0.00015, "y": -1.0}


def test_connections_are_told_with_their_sessions() -> None:
    question, client = connections(CONS)
    assert question == Connection("127.0.0.1:57406", 0, 0.0)
    assert client == Connection("[0:0:0:0:0:0:0:1]:48620", 0x300000E61A30000, 8.0)


def test_sessions_are_those_of_the_tracker() -> None:
    assert sessions(DUMP) == {0x100000E61880000, 0x300000E61A30000}


def test_the_password_of_a_session_follows_from_its_id() -> None:
    made = b";\xd3\x18\x005Hv\x9f;x\xfb\x1b:d6\xca"  # of a server of 3.8.0
    assert password(216172849396056065) == made


def test_a_challenge_is_answered_as_the_standard_does() -> None:
    challenge = 'realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8'
    answer = digest_md5(challenge, "chris", "secret", "OA6MHXh6VqTrRk", service="imap")
    assert "response=d388dad90d4bbd760a152321f2143af7" in answer  # RFC 2831, 4
    assert 'digest-uri="imap/elwood.innosoft.com"' in answer


# -- peers -----------------------------------------------------------------------------------------------


def greeting(addresses: bytes, version: int = -65536) -> bytes:
    return struct.pack(">qqi", version, 3, len(addresses)) + addresses


@pytest.mark.parametrize(
    ("told", "passed"),
    [
        (b"127.0.0.1:41000", b"127.0.0.1:9000"),
        (b"[0:0:0:0:0:0:0:1]:41000", b"[0:0:0:0:0:0:0:1]:9000"),
        (b"127.0.0.1:41000|127.0.0.2:41001", b"127.0.0.1:9000|127.0.0.2:41001"),
    ],
)
def test_a_member_is_reached_at_its_proxy(told: bytes, passed: bytes) -> None:
    greet = Greeting({41000: 9000})
    assert greet(greeting(told) + b"more") == greeting(passed) + b"more"
    assert greet(greeting(told, version=-65535)) == greeting(passed, version=-65535)


def test_a_greeting_is_passed_on_when_it_is_whole() -> None:
    greet, whole = Greeting({}), greeting(b"127.0.0.1:41000")
    assert [greet(whole[:length]) for length in range(len(whole))] == [None] * len(whole)
    assert greet(whole) == whole


def test_an_older_greeting_has_no_address() -> None:
    assert Greeting({})(struct.pack(">q", 2) + b"x") == struct.pack(">q", 2) + b"x"


# -- who leads -------------------------------------------------------------------------------------------


class Actor:
    """A member of which nothing is asked but its name and state."""

    def __init__(self, name: str, *, paused: bool = False) -> None:
        self.name, self.paused, self.running = name, paused, True
        self.host, self.port = "127.0.0.1", 1


class Told(ZooKeeper[Actor]):
    """Members by what they say."""

    def __init__(self, **says: tuple[Mode, int] | None) -> None:
        super().__init__([Actor(name) for name in says])
        self.says = says

    def standing(self, member: Actor) -> Standing | None:
        assert not member.paused, "one that is paused was asked"
        said = self.says[member.name]
        return said and Standing(said[0], said[1] << 32, "3.8.0")

    def replace(self, member: Actor) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_a_follower_follows_whoever_leads_although_its_own_epoch_is_older() -> None:
    ensemble = Told(a=(Mode.LEADER, 2), b=(Mode.FOLLOWER, 1), c=None)
    assert ensemble.views(ensemble.members) == {"a": View("a", 2), "b": View("a", 2), "c": None}
    assert ensemble.view(ensemble.member("b")) == View("a", 2)


def test_a_leader_that_does_not_know_of_its_end_is_followed_by_nobody() -> None:
    ensemble = Told(a=(Mode.LEADER, 1), b=(Mode.FOLLOWER, 2), c=(Mode.LEADER, 2))
    assert ensemble.views(ensemble.members) == {"a": View("a", 1), "b": View("c", 2), "c": View("c", 2)}


def test_who_follows_a_leader_that_keeps_silent_says_nothing() -> None:
    ensemble = Told(a=(Mode.LEADER, 1), b=(Mode.FOLLOWER, 1))
    ensemble.member("a").paused = True
    assert ensemble.view(ensemble.member("b")) is None


def test_one_alone_leads_itself() -> None:
    ensemble = Told(a=(Mode.STANDALONE, 0))
    assert ensemble.views(ensemble.members) == {"a": View("a", 0)}
