"""Every bad URL is a `ConfigError` before any I/O, says what would be right, and tells nobody the password.

The rule: the tests use schemes of their own where a scheme with servers is needed; nothing is connected to.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coordkit
from coordkit import registry
from coordkit.errors import BackendNotInstalled, ConfigError
from coordkit.model import Guarantees
from coordkit.registry import (
    Address,
    Scheme,
    boolean,
    connect,
    guarantees,
    number,
    one_ttl,
    parse,
    register,
    sharing_key,
)

PROMISED = Guarantees("servers", "none", False, (), ())


class Served(ModuleType):
    """A backend module that takes every address and notes what it is asked to connect to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.connected: list[Address] = []

    def check(self, address: Address) -> None: ...

    def guarantees(self, address: Address) -> Guarantees:
        return PROMISED

    def connect(self, address: Address, host: object) -> str:
        self.connected.append(address)
        return "the backend"


@pytest.fixture(scope="module", autouse=True)
def served() -> Any:
    """`servers://` and `timeouts://`, which name hosts, beside the schemes that there are."""
    with pytest.MonkeyPatch.context() as patch:
        module = Served("tests_served_backend")
        patch.setitem(sys.modules, module.__name__, module)
        patch.setattr(registry, "_schemes", dict(registry._schemes))
        options = {"timeout": number, "cluster": str, "careless": boolean}
        register("servers", Scheme(module.__name__, options=options))
        register("timeouts", Scheme(module.__name__, options=options, ttl_in_key=True))
        yield module


# -- what is right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("servers://one", (("one", None),)),
        ("servers://one:2379", (("one", 2379),)),
        ("servers://one:1,two:65535,three", (("one", 1), ("two", 65535), ("three", None))),
        ("servers://[::1]", (("::1", None),)),
        ("servers://[::1]:2379,[fe80::1]:2379", (("::1", 2379), ("fe80::1", 2379))),
        ("servers://user@one", (("one", None),)),
        ("servers://user:p%40ss@[::1]:1,two:2", (("::1", 1), ("two", 2))),
    ],
)
def test_hosts_and_ports_ipv6_too(url: str, hosts: tuple[tuple[str, int | None], ...]) -> None:
    assert parse(url).hosts == hosts


def test_a_path_is_decoded_and_kept() -> None:
    assert parse("servers://one/a/b%20c").path == "/a/b c"
    assert parse("servers://one").path == ""
    assert parse("sqlite:///var/lib/app/x%3F.db").path == "/var/lib/app/x?.db"
    assert parse("sqlite:///var/lib/me@home.db").path == "/var/lib/me@home.db"


def test_credentials_are_decoded_and_hidden() -> None:
    address = parse("servers://us%3Aer:p%2Fw%40@one/x")
    assert (address.user, address.password) == ("us:er", "p/w@")
    assert parse("servers://one").user is None
    assert parse("servers://user@one").password == ""


def test_options_are_typed() -> None:
    address = parse("servers://one?timeout=2.5&cluster=blue&drift=0.02")
    assert address.options == (("cluster", "blue"), ("drift", 0.02), ("timeout", 2.5))
    assert address.option("timeout", 1.0) == 2.5
    assert address.option("absent", "default") == "default"
    assert address.drift == 0.02
    assert parse("servers://one").drift == 0.01


def test_options_of_a_session_are_typed_as_those_of_a_url() -> None:
    assert parse("servers://one", {"timeout": 2.5, "cluster": "blue"}) == parse(
        "servers://one?cluster=blue&timeout=2.5"
    )
    assert parse("servers://one", {"cluster": True}).option("cluster", "") == "true"
    assert parse("servers://one", {"careless": True}) == parse("servers://one?careless=true")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_an_option_that_is_true_or_false(text: str, value: bool) -> None:
    assert parse(f"servers://one?careless={text}").option("careless", not value) is value


@pytest.mark.parametrize("scheme", ["etcd", "etcds"])
def test_etcd_says_whether_its_leases_are_trusted(scheme: str) -> None:
    stopped = "the leader of etcd paused beyond the ttl and resumed"
    for options, trusted in (("", False), ("?trust_leases=false", False), ("?trust_leases=true", True)):
        promised = guarantees(parse(f"{scheme}://one{options}"))
        assert (stopped in promised.survives) is not trusted
        assert any(each.startswith(stopped) for each in promised.not_covered) is trusted


@pytest.mark.parametrize("scheme", ["zookeeper", "zookeepers"])
@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("one", ""),
        ("one:2181,two:2281,[::1]:2381", ""),
        ("one/", "/"),
        ("one/services", "/services"),
        ("one/services/elections/", "/services/elections/"),
        ("one/a%20b/b%C3%BCro", "/a b/büro"),
        ("one/zookeepers", "/zookeepers"),
        ("one/services/zookeeper", "/services/zookeeper"),
    ],
)
def test_a_chroot_of_zookeeper_is_a_path(scheme: str, rest: str, path: str) -> None:
    assert parse(f"{scheme}://{rest}").path == path


@pytest.mark.parametrize(
    "acl",
    [
        "open",
        "world:anyone:r;auth::cdrw",
        "world:anyone:cdrwa",
        "digest:alice:aGFzaA==:cdrwa;world:anyone:r",
        "ip:10.0.0.0/8:cdrw",
        "ip:2001:db8::1:wrdc",
        "sasl:alice@EXAMPLE.ORG:cdrwa",
        "auth::cdrwa",
    ],
)
def test_access_lists_of_zookeeper(acl: str) -> None:
    assert parse("zookeeper://one", {"acl": acl}).option("acl", "") == acl
    assert parse(f"zookeeper://one?acl={quote(acl, safe='')}").option("acl", "") == acl


@pytest.mark.parametrize(
    "url",
    [
        "zookeeper://alice:pw@one?acl=creator",
        "zookeeper://alice:pw@one?auth=digest",
        "zookeeper://alice:pw@one?auth=sasl&acl=creator",
        "zookeeper://alice:@one",
        "zookeepers://one?ca=a&cert=b&key=c&server_name=d&acl=creator&drift=0.02",
        "zookeepers://alice:pw@one?auth=sasl",
    ],
)
def test_users_and_certificates_of_zookeeper(url: str) -> None:
    parse(url)


def test_the_ttl_is_part_of_what_sessions_of_zookeeper_share() -> None:
    address = parse("zookeeper://one/p")
    assert one_ttl(address)
    assert sharing_key(address, 1.0) != sharing_key(address, 2.0)
    assert not one_ttl(parse("etcd://one/p"))


# -- what is wrong ---------------------------------------------------------------------------------------

WRONG: list[tuple[object, str]] = [
    (None, "named by a URL, a str, not NoneType"),
    (b"memory://x", "a str, not bytes"),
    ("", "scheme://..., with a scheme of etcd://"),
    ("localhost:2379", "scheme://..., with a scheme of etcd://"),
    ("memory:x", "scheme://..., with a scheme of etcd://"),
    ("etc://one", "'etc' is none of etcd://"),
    ("://one", "'' is none of etcd://"),
    ("MEMORY://x", "'MEMORY' is none of etcd://"),
    ("x" * 9000 + "://one", "is none of etcd://"),
    ("servers://one#part", "write %23"),
    ("servers://one/a\nb", "control characters"),
    ("servers://one/\x7f", "control characters"),
    ("servers://", "an empty host"),
    ("servers:///path", "an empty host"),
    ("servers://one,,two", "an empty host"),
    ("servers://one,", "an empty host"),
    ("servers://:2379", "an empty host"),
    ("servers:// one", "an empty host"),
    ("servers://one, two", "an empty host"),
    ("servers://one,one", "names a host twice"),
    ("servers://one:1,one:1", "names a host twice"),
    ("servers://::1", r"IPv6 address reads \[::1\]:port"),
    ("servers://fe80::1:2379", r"IPv6 address reads \[::1\]:port"),
    ("servers://[::1", r"it reads \[::1\]:port"),
    ("servers://[::1]2379", r"it reads \[::1\]:port"),
    ("servers://[]:1", "an empty host"),
    ("servers://one:0", "number from 1 to 65535"),
    ("servers://one:65536", "number from 1 to 65535"),
    ("servers://one:-1", "number from 1 to 65535"),
    ("servers://one:http", "number from 1 to 65535"),
    ("servers://one:\u0661", "number from 1 to 65535"),
    ("servers://one:" + "1" * 5000, "number from 1 to 65535"),
    ("servers://one/%FF", "path of a backend URL is not percent-encoded UTF-8"),
    ("servers://%FF@one", "user of a backend URL is not percent-encoded UTF-8"),
    ("servers://u:%FF@one", "password of a backend URL is not percent-encoded UTF-8"),
    ("servers://one?timeout", r"read \?name=value"),
    ("servers://one?=1&&", r"read \?name=value"),
    ("servers://one?timeout=%FF", r"read \?name=value"),
    ("servers://one?tmeout=1", "no option 'tmeout'; it has careless, cluster, drift, timeout"),
    ("servers://one?timeout=1&timeout=2", "'timeout' is given twice"),
    ("servers://one?timeout=soon", "'timeout' of servers:// is not valid"),
    ("servers://one?timeout=nan", "a finite number"),
    ("servers://one?timeout=inf", "a finite number"),
    ("servers://one?timeout=", "'timeout' of servers:// is not valid"),
    ("servers://one?careless=yes", "'careless' of servers:// is not valid: true or false"),
    ("servers://one?careless=True", "true or false"),
    ("servers://one?careless=1", "true or false"),
    ("servers://one?careless=", "true or false"),
    ("servers://one?drift=0.21", r"a fraction from 0 to 0\.2"),
    ("servers://one?drift=-0.1", r"a fraction from 0 to 0\.2"),
    ("servers://one?drift=nan", "a finite number"),
    ("zookeeper://", "an empty host"),
    ("zookeeper:///p", "an empty host"),
    ("zookeeper://one//a", "the chroot of zookeeper:// is a path of ZooKeeper, such as /services/elections"),
    ("zookeeper://one/a//b", "is a path of ZooKeeper"),
    ("zookeeper://one/a/./b", "is a path of ZooKeeper"),
    ("zookeeper://one/..", "is a path of ZooKeeper"),
    ("zookeeper://one/a%00b", "is a path of ZooKeeper"),
    ("zookeeper://one/a%1Fb", "is a path of ZooKeeper"),
    ("zookeeper://one/a%C2%85b", "is a path of ZooKeeper"),
    ("zookeeper://one/%F0%9F%97%B3", "is a path of ZooKeeper"),
    ("zookeeper://one/%EE%80%80", "is a path of ZooKeeper"),
    ("zookeeper://one/\ud800", "is a path of ZooKeeper"),
    ("zookeeper://one/zookeeper", "is under /zookeeper, which is the servers' own"),
    ("zookeeper://one/zookeeper/", "is under /zookeeper, which is the servers' own"),
    ("zookeepers://one/zookeeper/quota", "zookeepers:// is under /zookeeper, which is the servers' own"),
    ("zookeeper://one/%7Aookeeper", "is under /zookeeper, which is the servers' own"),
    ("zookeeper://one?acl=everybody", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=OPEN", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=world:anyone", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=world:anyone:", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=:anyone:r", "'open', 'creator', or scheme:id:perms"),
    ("zookeeper://one?acl=world:anyone:rx", "with perms of 'cdrwa'"),
    ("zookeeper://one?acl=world:anyone:ALL", "with perms of 'cdrwa'"),
    ("zookeeper://one?acl=world:anyone:r;", "separated by ';'"),
    ("zookeeper://one?acl=creator", "acl=creator needs somebody to be the creator"),
    ("zookeepers://one?acl=creator&ca=a", "acl=creator needs somebody to be the creator"),
    ("zookeeper://one?auth=sasl", "the option 'auth' needs a user and a password in the URL"),
    ("zookeeper://one?auth=digest", "the option 'auth' needs a user and a password in the URL"),
    ("zookeeper://alice:pw@one?auth=none", "'auth' of zookeeper:// is not valid: one of digest, sasl"),
    ("zookeeper://alice:pw@one?auth=kerberos", "'auth' of zookeeper:// is not valid: one of digest, sasl"),
    ("zookeeper://:pw@one", "has a user and a password, or neither"),
    ("zookeeper://@one", "has a user and a password, or neither"),
    ("zookeeper://one?ca=a", "no option 'ca'; it has acl, auth, drift"),
    ("zookeeper://one?timeout=1", "zookeeper:// has no option 'timeout'; it has acl, auth, drift"),
    ("zookeepers://one?timeout=1", "'timeout'; it has acl, auth, ca, cert, drift, key, server_name"),
    ("zookeepers://one?cert=a", "'cert' and 'key' go together"),
    ("zookeepers://one?key=a", "'cert' and 'key' go together"),
    ("memory://", "an empty host"),
    ("memory://a,b", "reads memory://name"),
    ("memory://a:1", "reads memory://name"),
    ("memory://a/b", "reads memory://name"),
    ("memory://..", "'.' or '..'"),
    ("memory://\ud800", "UTF-8"),
    ("memory://me:secret@a", "memory:// takes no credentials"),
    ("memory://a?cluster=x", "no option 'cluster'; it has drift, link"),
    ("sqlite://", "reads sqlite:///absolute/path"),
    ("sqlite:///", "reads sqlite:///absolute/path"),
    ("sqlite:///folder/", "reads sqlite:///absolute/path"),
    ("sqlite:///a%00b", "reads sqlite:///absolute/path"),
    ("sqlite:////tmp/\ud800.db", "UTF-8"),
    ("sqlite://relative.db", "write three slashes, sqlite:///path"),
    ("sqlite://host/file.db", "write three slashes, sqlite:///path"),
    ("sqlite://me:secret@/file.db", "write three slashes, sqlite:///path"),
]


@pytest.mark.parametrize(("url", "said"), WRONG, ids=lambda value: ascii(value)[:40])
def test_a_bad_url_is_refused_with_what_would_be_right(url: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse(url)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("url", "said"), [(url, said) for url, said in WRONG if isinstance(url, str)][::5])
def test_the_constructors_refuse_it_too_before_anything_happens(url: str, said: str) -> None:
    for make in (
        lambda: coordkit.LeaderElector(url, "a"),
        lambda: coordkit.AsyncLeaderElector(url, "a"),
        lambda: coordkit.Session(url),
    ):
        with pytest.raises(ConfigError, match=said):
            make()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"timeout": None}, "'timeout' of servers:// is not valid"),
        ({"timeout": 1.0}, "'timeout' is given twice"),
        ({"colour": "blue"}, "no option 'colour'; it has careless, cluster, drift, timeout"),
    ],
)
def test_bad_options_of_a_session(more: Mapping[str, object], said: str) -> None:
    url = "servers://one?timeout=1" if more.get("timeout") else "servers://one"
    with pytest.raises(ConfigError, match=said):
        coordkit.Session(url, **more)


# -- credentials -----------------------------------------------------------------------------------------

SECRET = "hunter2"


def test_no_repr_shows_credentials() -> None:
    url = f"servers://{SECRET}user:{SECRET}@one:1,[::1]:2/x?cluster=blue"
    address = parse(url)
    session = coordkit.Session(url)
    shown = [repr(address), str(address), address.shown, repr(session)]
    shown += [repr(coordkit.LeaderElector(target, "a")) for target in (url, session)]
    shown += [repr(coordkit.AsyncLeaderElector(url, "a"))]
    assert all(SECRET not in text for text in shown)
    assert address.shown == "servers://one:1,[::1]:2/x"


def told(url: str) -> str:
    """All that anybody can learn of a URL: what is wrong with it, else how it is shown."""
    try:
        address = parse(url)
    except ConfigError as error:
        return f"{error} {error.__cause__!r}"
    return f"{address!r} {address.shown}"


@pytest.mark.parametrize("secret", [SECRET, "27017"])
@pytest.mark.parametrize(
    "character", ["/", "?", "#", "/?", "?x=", "=", "?=", "@", "@/", "@1/", "@1?", ":", "%", " ", "\n"]
)
def test_a_password_that_was_not_encoded_is_not_told_either(character: str, secret: str) -> None:
    """The commonest mistake: the URL falls apart at another place than its author meant."""
    assert secret not in told(f"servers://user:{secret}{character}{secret}@one")
    assert secret not in told(f"servers://user:{secret}?{secret}{character}x@one")


def test_the_mistake_is_explained() -> None:
    with pytest.raises(ConfigError, match="percent-encode"):
        parse("servers://user:27017/27017@one")


@given(st.sampled_from(["servers", "memory", "other"]), st.text(max_size=6), st.text(max_size=20))
def test_no_message_tells_the_password(scheme: str, user: str, rest: str) -> None:
    assert SECRET not in told(f"{scheme}://{user}:{SECRET}@{rest}")


# -- sharing, schemes of one's own -----------------------------------------------------------------------


def test_equal_urls_share_whatever_the_order_of_their_options() -> None:
    one = parse("servers://a,b/x?timeout=1&cluster=c")
    assert sharing_key(one, 1.0) == sharing_key(parse("servers://a,b/x?cluster=c&timeout=1.0"), 2.0)


@pytest.mark.parametrize(
    "other",
    [
        "servers://b,a/x?timeout=1&cluster=c",
        "servers://a/x?timeout=1&cluster=c",
        "servers://a,b/y?timeout=1&cluster=c",
        "servers://a,b/x?timeout=2&cluster=c",
        "servers://a,b/x?timeout=1",
        "servers://me@a,b/x?timeout=1&cluster=c",
        "servers://me:pw@a,b/x?timeout=1&cluster=c",
        "timeouts://a,b/x?timeout=1&cluster=c",
    ],
)
def test_whatever_else_differs_keeps_sessions_apart(other: str) -> None:
    assert sharing_key(parse("servers://a,b/x?timeout=1&cluster=c"), 1.0) != sharing_key(parse(other), 1.0)


def test_the_ttl_keeps_them_apart_where_the_store_has_one_timeout_per_connection() -> None:
    address = parse("timeouts://a")
    assert sharing_key(address, 1.0) != sharing_key(address, 2.0)
    assert sharing_key(address, 1.0) == sharing_key(parse("timeouts://a"), 1.0)


def test_a_scheme_of_ones_own_is_served_by_its_module(served: Served) -> None:
    address = parse("servers://one")
    assert connect(address, None) == "the backend"  # type: ignore[arg-type, comparison-overlap]
    assert served.connected == [address]
    assert guarantees(address) is PROMISED


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_backend.py").write_text("import package_that_is_missing.client\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_schemes", dict(registry._schemes))
    register("lacking", Scheme("lacking_backend", extra="etcd", packages=("package_that_is_missing",)))
    with pytest.raises(BackendNotInstalled, match=r"pip install 'coordkit\[etcd\]'") as caught:
        coordkit.LeaderElector("lacking://one", "a")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("url", ["zookeeper://one/p", "zookeepers://one/p"])
def test_without_kazoo_zookeeper_says_what_to_install(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("coordkit.backends.zookeeper")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kazoo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kazoo", None)  # as if it were not there
    for make in (lambda: coordkit.LeaderElector(url, "a"), lambda: coordkit.Session(url)):
        with pytest.raises(BackendNotInstalled, match=r"^kazoo is not installed: pip install 'coordkit\[zookeeper\]'$"):
            make()


def test_another_missing_module_is_no_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_backend.py").write_text("import another_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_schemes", dict(registry._schemes))
    register("broken", Scheme("broken_backend", extra="etcd", packages=("package_that_is_missing",)))
    with pytest.raises(ModuleNotFoundError, match="another_that_is_missing"):
        parse("broken://one")


@pytest.mark.parametrize("name", ["", "A", "a b", "a-b", "a/b", "ETCD", "a:"])
def test_a_scheme_has_a_proper_name(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case letters and digits"):
        register(name, Scheme("tests_served_backend"))


def test_a_scheme_is_registered_once() -> None:
    again = registry._schemes["servers"]
    register("servers", again)
    with pytest.raises(ConfigError, match="servers:// is taken"):
        register("servers", Scheme("tests_served_backend"))
    with pytest.raises(ConfigError, match="sqlite:// is taken"):
        register("sqlite", again)
