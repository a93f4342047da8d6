"""What a URL of Redis may say: whatever is wrong with it is said at once, with what would be right and no secret."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

import coordkit
from coordkit import ConfigError, LeaderElector
from coordkit.backends.redis.target import (
    KEY,
    MOST_VOTERS,
    PORT,
    agreement_of,
    check_ttl,
    guarantees,
    key_of,
    read_seconds,
    rules_of,
    targets_of,
)
from coordkit.registry import parse
from tests.support.failing import MARK, PASSWORD, reveals_nothing

LOGIN = f"somebody:{quote(PASSWORD, safe='')}@"
MANY = ",".join(f"h{number}" for number in range(MOST_VOTERS + 1))

WRONG = [
    ("redis://", "an empty host"),
    ("redis+quorum://a,,b", "an empty host"),
    ("redis://a,b", "redis:// names one server; several voters are redis+quorum://h1,h2,h3"),
    ("rediss://a,b", "several voters are rediss+quorum://h1,h2,h3"),
    ("redis+quorum://a,b,a", "names a host twice"),
    ("redis+quorum://a,b,A", "names a voter twice"),
    (f"redis+quorum://a,b,a:{PORT}", "names a voter twice"),
    (f"redis+quorum://{MANY}", f"names at most {MOST_VOTERS} voters"),
    ("redis+quorum://a,b,c/1", "has no path: the voters keep their records in database 0"),
    ("redis+quorum://a,b,c/prefix", "has no path"),
    ("rediss+quorum://a,b,c/1", "has no path"),
    ("redis://a/x", "is the number of a database, such as /0"),
    ("redis://a/-1", "is the number of a database"),
    ("redis://a/1/2", "is the number of a database"),
    ("redis://a/1.0", "is the number of a database"),
    ("redis://a/\u0661", "is the number of a database"),
    ("redis://a/1234567", "is the number of a database"),
    ("redis+unix:///", "reads redis+unix:///path/of/redis.sock"),
    ("redis+unix:///run/", "reads redis+unix:///path/of/redis.sock"),
    ("redis+unix:///run/a%00b", "reads redis+unix:///path/of/redis.sock"),
    ("redis+unix://run/redis.sock", "names no host: write three slashes, redis+unix:///path"),
    ("redis+sentinel://a", "is none of"),
    ("redis://a?colour=blue", "redis:// has no option 'colour'; it has cluster, drift, keyspace, max_ttl"),
    ("redis://a?ca=x", "redis:// has no option 'ca'"),
    ("rediss://a?colour=blue", "it has ca, cert, cluster, drift, key, keyspace, max_ttl, server_name"),
    ("rediss://a?cert=x", "'cert' and 'key' go together"),
    ("rediss+quorum://a,b,c?key=x", "'cert' and 'key' go together"),
    ("redis://a?max_ttl=0", "max_ttl is a number of seconds from 0.1 to"),
    ("redis://a?max_ttl=-5", "max_ttl is a number of seconds from 0.1 to"),
    ("redis://a?max_ttl=1e99", "max_ttl is a number of seconds from 0.1 to"),
    ("redis://a?max_ttl=nan", "'max_ttl' of redis:// is not valid: a finite number"),
    ("redis://a?max_ttl=inf", "'max_ttl' of redis:// is not valid: a finite number"),
    ("redis://a?max_ttl=soon", "'max_ttl' of redis:// is not valid"),
    ("redis://a?max_ttl=1&max_ttl=2", "'max_ttl' is given twice"),
    ("redis://a?keyspace=", "'keyspace' is the name of a key; it is empty"),
    ("redis://a?cluster=", "'cluster' is a name; it is empty"),
    ("redis://a?keyspace=\ud800", "must be encodable as UTF-8"),
    ("redis://a?cluster=\ud800", "must be encodable as UTF-8"),
    ("redis://u:\ud800@a", "must be encodable as UTF-8"),
    ("redis://somebody@a", "has a user without a password"),
    ("redis://somebody:@a", "has a user without a password"),
    ("redis+unix://somebody@/run/redis.sock", "has a user without a password"),
]


@pytest.mark.parametrize(("url", "said"), WRONG, ids=lambda value: ascii(value)[:40])
def test_a_url_that_cannot_be_right_is_refused_before_anything_happens(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as failed:
        LeaderElector(url, "x")
    assert len(str(failed.value)) < 300
    with pytest.raises(ConfigError, match=re.escape(said)):
        coordkit.Session(url)


@pytest.mark.parametrize("rest", ["a,b", "a/x", "a/1/2", "a?max_ttl=0", "a?colour=1", "a?keyspace=", "", " b"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+unix"])
def test_no_message_tells_the_password(scheme: str, rest: str) -> None:
    with pytest.raises(ConfigError) as failed:
        parse(f"{scheme}://{LOGIN}{rest}")
    reveals_nothing(failed.value)


@pytest.mark.parametrize("url", [f"redis+quorum://{LOGIN}a,b,c", f"redis+unix://{LOGIN}/run/redis.sock"])
def test_no_repr_tells_it(url: str) -> None:
    address = parse(url)
    (target, *_) = targets_of(address)
    assert (target.user, target.password) == ("somebody", PASSWORD)
    for text in (repr(address), address.shown, repr(target), target.name, repr(LeaderElector(url, "x"))):
        assert MARK not in text
        assert "somebody" not in text


def test_the_voters_are_those_of_the_url_in_its_order() -> None:
    told = targets_of(parse("rediss+quorum://:pw@Two:7000,[::1],one?ca=c&cert=a&key=k&server_name=s"))
    assert [(each.host, each.port) for each in told] == [("two", 7000), ("::1", PORT), ("one", PORT)]
    assert [each.name for each in told] == ["two:7000", f"[::1]:{PORT}", f"one:{PORT}"]
    for each in told:
        assert (each.tls, each.db, each.user, each.password) == (True, 0, None, "pw")
        assert (each.ca, each.cert, each.key, each.server_name) == ("c", "a", "k", "s")


@pytest.mark.parametrize(
    ("url", "port", "db", "tls"),
    [
        ("redis://one", PORT, 0, False),
        ("redis://one:7000/3", 7000, 3, False),
        ("redis://one/", PORT, 0, False),
        ("rediss://one/15", PORT, 15, True),
        ("redis+quorum://one", PORT, 0, False),
        ("redis+quorum://one/0", PORT, 0, False),
    ],
)
def test_one_voter(url: str, port: int, db: int, tls: bool) -> None:
    (target,) = targets_of(parse(url))
    assert (target.host, target.port, target.db, target.tls) == ("one", port, db, tls)
    assert (target.user, target.password) == (None, None)


def test_a_socket_is_a_path() -> None:
    (target,) = targets_of(parse("redis+unix:///run/my%20redis.sock"))
    assert (target.host, target.port, target.name) == ("/run/my redis.sock", None, "/run/my redis.sock")
    (target,) = targets_of(parse("redis+unix://:p%40ss@/run/redis.sock"))
    assert (target.host, target.user, target.password) == ("/run/redis.sock", None, "p@ss")


def test_what_all_have_to_agree_on() -> None:
    agreed = agreement_of(parse("redis+quorum://a,b,c"))
    same = ["redis+quorum://c,b,a", "redis+quorum://A,b:6379,c/0", "redis+quorum://u:p@a,b,c", "rediss+quorum://a,b,c"]
    same += ["redis+quorum://a,b,c?drift=0.02", "redis+quorum://a,b,c?max_ttl=60.0"]
    others = ["redis+quorum://a,b", "redis+quorum://a,b,d", "redis+quorum://a,b,c:1", "redis+quorum://a,b,c?max_ttl=61"]
    others += ["redis+quorum://a,b,c?cluster=blue"]
    assert {agreement_of(parse(url)) for url in same} == {agreed}
    assert agreed not in {agreement_of(parse(url)) for url in others}
    named = {agreement_of(parse(f"redis+quorum://{hosts}?cluster=blue")) for hosts in ("a,b,c", "d,e,f")}
    assert len(named) == 1, "a name stands for a list, however it is written"
    assert named.isdisjoint({agreement_of(parse("redis+quorum://a,b?cluster=blue"))}), "but not for another number"


def test_the_longest_lease_is_part_of_the_agreement() -> None:
    address = parse("redis://a?max_ttl=5")
    check_ttl(address, 5.0)
    with pytest.raises(
        ConfigError, match=r"ttl=5\.1 is above max_ttl=5: .* raise the option max_ttl of all candidates"
    ):
        check_ttl(address, 5.1)
    with pytest.raises(ConfigError, match="ttl=61 is above max_ttl=60"):
        LeaderElector("redis+quorum://a,b,c", "x", ttl=61.0)
    assert rules_of(parse("redis+quorum://a,b,c,d?max_ttl=5&drift=0.02")).max_ttl == 5.0


@pytest.mark.parametrize(("voters", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (31, 16)])
def test_a_majority_is_of_those_that_are_configured(voters: int, majority: int) -> None:
    rules = rules_of(parse(f"redis+quorum://{','.join(f'h{number}' for number in range(voters))}"))
    assert (rules.voters, rules.majority) == (voters, majority)


def test_a_read_may_take_a_lease() -> None:
    assert read_seconds(parse("redis://a"), 10.0) > 10.0
    assert read_seconds(parse("redis://a?drift=0.1"), 10.0) > 12.0


def test_the_key_is_ours_unless_another_is_named() -> None:
    assert key_of(parse("redis://a")) == KEY == "coordkit"
    assert key_of(parse("redis://a?keyspace=mine")) == "mine"


@pytest.mark.parametrize(("hosts", "several"), [("a", False), ("a,b", False), ("a,b,c", True), ("a,b,c,d", True)])
def test_so_few_voters_survive_no_fault_of_one(hosts: str, several: bool) -> None:
    promised = guarantees(parse(f"redis+quorum://{hosts}?max_ttl=7"))
    assert any("any minority" in fault for fault in promised.survives) is several
    assert any("a fault of one voter" in fault for fault in promised.not_covered) is not several
    assert any("max_ttl=7" in fault for fault in promised.not_covered)
