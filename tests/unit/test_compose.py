"""The pure parts of the compose servers, and that docker-compose.yml keeps its own rules."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import compose_engine, compose_project, compose_selection, images, mariadb, postgresql
from tests.servers.compose import DATABASES, ETCD, FIXED_HOSTS, SINGLE_VOTER, VOTERS, VOTERS_DATA, ZOOKEEPER
from tests.servers.compose_engine import Engine, EngineFailed, NoEngine
from tests.servers.compose_project import PEERS_VARIABLE, PORTS, free_network, free_ports, networks
from tests.servers.fetch import Program
from tests.servers.images import COMPOSE_FILE, STAND_INS, StandIn, Unlinked
from tests.servers.redis import FLAGS
from tests.servers.zookeeper import super_digest

LDD = """\
\tlinux-vdso.so.1 (0x00007f25f32f9000)
\tlibcrypto.so.3 => /tree/usr/lib/libcrypto.so.3 (0x00007f25f3206000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f25f3106000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f25f32fb000)
"""
# Known to both docker-compose 1.29 and Compose v2; a service may use more once both have been tried with it.
TOP_LEVEL = {"services", "networks", "volumes"}
SERVICE = {
    *(
        "image",
        "entrypoint",
        "command",
        "environment",
        "ports",
        "networks",
        "volumes",
        "dns_opt",
        "dns_search",
        "stop_grace_period",
    ),
    *("sysctls", "tmpfs", "user", "working_dir", "ulimits"),
}


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("tests/contract/test_etcd.py::TestEtcd::test_a_thing[1]", "etcd"),
        ("tests/integration/test_things.py::test_python_etcd3_599_a_thing[redis]", "redis"),
        ("tests/integration/test_things.py::test_a_redis_beside_etcd", "etcd redis"),
        ("tests/integration/test_things.py::test_a_thing[sqlite]", ""),
    ],
)
def test_a_test_uses_the_backend_that_its_parameters_name_else_those_of_its_id(test: str, named: str) -> None:
    assert compose_selection.backends_named_by(test) == named


def test_libraries_are_those_with_a_path() -> None:
    found = images.libraries(LDD)
    assert found == [
        Path("/tree/usr/lib/libcrypto.so.3"),
        Path("/lib/x86_64-linux-gnu/libc.so.6"),
        Path("/lib64/ld-linux-x86-64.so.2"),
    ]


def test_a_static_program_needs_no_library() -> None:
    assert images.libraries("\tstatically linked\n") == []
    assert images.libraries("\tnot a dynamic executable\n") == []


def test_a_program_without_its_library_is_told_apart_from_a_static_one() -> None:
    with pytest.raises(Unlinked, match=r"libssl\.so\.3"):
        images.libraries("\tlibssl.so.3 => not found\n" + LDD)


@pytest.fixture
def oracle(tmp_path: Path) -> images.Contents:
    """The stand-in of a made-up server: one file of a tree, one library of the tree, one of the machine."""
    tree, machine = tmp_path / "tree", tmp_path / "machine"
    for path, text in (
        (tree / "usr/sbin/oracled", "program"),
        (tree / "usr/lib/oracle/liboracle.so.9", "library"),
        (tree / "usr/share/oracle/questions", "data"),
        (tree / "usr/share/doc/oracle/changelog", "left out"),
        (machine / "libc.so.6", "of the machine"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    (tree / "usr/sbin/oracled").chmod(0o755)
    stand_in = StandIn("oracle", programs={"/usr/local/bin/oracled": "oracled"})
    programs = {"oracled": Program(tree / "usr/sbin/oracled")}
    closure = [tree / "usr/lib/oracle/liboracle.so.9", machine / "libc.so.6"]
    return images.contents(stand_in, programs, closure, tree)


def test_a_stand_in_has_tree_links_and_library_closure(oracle: images.Contents, tmp_path: Path) -> None:
    machine = str(tmp_path / "machine")
    assert set(oracle.files) == {
        *("usr/sbin/oracled", "usr/lib/oracle/liboracle.so.9", "usr/share/oracle/questions"),
        f"{machine}/libc.so.6".lstrip("/"),
    }
    assert oracle.links == {"usr/local/bin/oracled": "/usr/sbin/oracled"}
    assert set(oracle.library_directories) == {"/usr/lib/oracle", machine}


def test_a_stand_in_has_files_where_they_are_wanted(tmp_path: Path) -> None:
    jar = tmp_path / "oracle.jar"
    jar.touch()
    held = images.contents(StandIn("oracle"), {}, [], None, {"/oracle/lib/oracle.jar": jar})
    assert held.files == {"oracle/lib/oracle.jar": jar}


def test_an_archive_holds_what_the_stand_in_does(oracle: images.Contents) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        images.write(oracle, archive)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        program = archive.getmember("usr/sbin/oracled")
        assert (program.mode, program.uid) == (0o755, 0)
        file = archive.extractfile(program)
        assert file is not None
        assert file.read() == b"program"
        assert archive.getmember("usr/local/bin/oracled").linkname == "/usr/sbin/oracled"
        assert set(archive.getnames()) == {"tmp", *oracle.files, *oracle.links}


def test_other_contents_get_another_name(oracle: images.Contents) -> None:
    before = oracle.digest
    assert oracle.digest == before
    oracle.files["usr/share/oracle/questions"].write_text("more data", encoding="ascii")
    assert oracle.digest != before


def test_every_service_has_an_official_image_and_a_stand_in() -> None:
    official = images.official()
    assert official.keys() == STAND_INS.keys()
    assert len(re.findall(r"^\s*image:", _text(), re.MULTILINE)) == len(official)
    for image in official.values():
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", image), f"{image} is pinned to no version"


def test_ports_are_published_on_loopback_alone() -> None:
    published = re.findall(r"^\s*ports: \[(.*)\]$", _text(), re.MULTILINE)
    assert len(published) == len(re.findall(r"\bports:", _text())) == len(_services())
    for port in published:
        assert re.fullmatch(r'"127\.0\.0\.1:\$\{COORDKIT_\w+_PORT:-\d+\}:\d+"', port)


def test_the_file_keeps_to_what_both_kinds_of_compose_know() -> None:
    top = set(re.findall(r"^(\w[\w-]*):", _text(), re.MULTILINE))
    assert {name for name in top if not name.startswith("x-")} == TOP_LEVEL
    services = _text().partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
    used = set(re.findall(r"^    (\w+):", services, re.MULTILINE))
    for shared in ("etcd", "zookeeper", "redis", "postgresql", "mariadb"):
        shared = f"x-{shared}: &{shared}\n"
        used |= set(re.findall(r"^  (\w+):", _text().partition(shared)[2].partition("\n\n")[0], re.MULTILINE))
    assert used - SERVICE == set()
    assert {"image", "entrypoint", "command"} <= used


class Shelf(Engine):
    """An engine that has some images and can pull some."""

    def __init__(self, *, has: set[str] | None = None, pulls: set[str] | None = None) -> None:
        super().__init__(("docker", "compose"))
        object.__setattr__(self, "has", has or set())
        object.__setattr__(self, "pulls", pulls or set())

    def docker(self, *arguments: str, given: bytes = b"", timeout: float = 0.0) -> str:
        there = getattr(self, {"image": "has", "pull": "pulls"}[arguments[0]])
        if arguments[-1] not in there:
            raise EngineFailed(("docker", *arguments), "no such host")
        return ""


def test_a_stand_in_is_made_only_where_there_is_no_official_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    official = images.official()
    etcd, *others = official.values()
    monkeypatch.setattr(images, "_stand_in", lambda engine, stand_in: f"made/{stand_in.name}")
    assert images.settle(Shelf(has={etcd, *others}), {}) == {}
    assert images.settle(Shelf(has={etcd}, pulls={*others}), {}) == {}
    assert images.settle(Shelf(pulls={*others}), {"COORDKIT_ETCD_IMAGE": "mine"}) == {}
    assert capsys.readouterr().out == ""
    for variable, image in official.items():
        rest = {*official.values()} - {image}
        assert images.settle(Shelf(has=rest), {}) == {variable: f"made/{STAND_INS[variable].name}"}
    assert "no such host" in capsys.readouterr().out


def test_ports_are_free_different_and_below_those_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDKIT_ETCD2_PORT", "2379")
    ports = free_ports()
    asked = {f"COORDKIT_{name.upper()}_PORT" for name in _services()}
    assert set(ports) == asked - {"COORDKIT_ETCD2_PORT"}  # what is set stays
    assert len(set(ports.values())) == len(asked) - 1
    assert all(int(port) in PORTS for port in ports.values())


ROUTES = """\
Iface   Destination     Gateway         Flags   RefCnt  Use     Metric  Mask            MTU     Window  IRTT
eth0    00000000        010200C0        0003    0       0       0       00000000        0       0       0
docker0 000011AC        00000000        0001    0       0       0       0000FFFF        0       0       0
tun0    0000000A        00000000        0001    0       0       0       000000FF        0       0       0
"""


def test_networks_are_those_that_routes_lead_to() -> None:
    assert list(map(str, networks(ROUTES))) == ["172.17.0.0/16", "10.0.0.0/8"]


def test_the_network_of_the_peers_is_one_that_nothing_here_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix,) = free_network().values()
    assert re.fullmatch(r"10\.\d+\.\d+", prefix)
    monkeypatch.setattr(compose_project, "networks", lambda routes: networks(ROUTES))
    assert free_network() == {}  # all is taken: that of the file may do
    monkeypatch.setenv(PEERS_VARIABLE, "10.1.2")
    assert free_network() == {}


def test_every_service_is_a_member_of_a_cluster() -> None:
    assert sorted(_services()) == sorted([*ETCD, *ZOOKEEPER, *VOTERS, *SINGLE_VOTER, *DATABASES])


def test_voters_in_containers_have_the_flags_of_those_that_are_processes() -> None:
    listed = _text().partition("x-redis: &redis\n")[2].partition("command:\n")[2].partition("  dns_opt:")[0]
    assert re.findall(r'- "(.*)"', listed) == ["--dir", VOTERS_DATA, *FLAGS]


def test_databases_in_containers_have_the_flags_of_those_that_are_processes() -> None:
    for name, flags in (
        ("postgresql", (*postgresql.FLAGS, *postgresql.NOT_DURABLE)),
        ("mariadb", (*mariadb.FLAGS, *mariadb.NOT_DURABLE)),
    ):
        listed = _text().partition(f"x-{name}: &{name}\n")[2].partition("command:\n")[2].partition("  dns_opt:")[0]
        assert re.findall(r'- "(.*)"', listed)[-len(flags) :] == list(flags)


def test_databases_in_containers_begin_with_what_those_that_are_processes_have() -> None:
    folder = COMPOSE_FILE.parent / "tests/servers"
    start = (folder / "postgresql_files/start.sh").read_text(encoding="utf-8")
    assert all(word in start for word in (*postgresql.INITDB_FLAGS, *postgresql.FIRST_WORDS))
    words = (folder / "mariadb_files/first-words.sql").read_text(encoding="utf-8")
    assert words == f"{mariadb.DATABASE_WORDS};\n"


def test_a_member_comes_back_under_the_address_that_the_file_gives_it() -> None:
    for service in re.split(r"\n(?=  \w+:\n    <<)", _text()):
        fixed = re.findall(r"ipv4_address: \$\{COORDKIT_PEERS:-[\d.]+\}\.(\d+)$", service, re.MULTILINE)
        assert fixed == [str(host) for host in [FIXED_HOSTS.get(service.split(":")[0].strip())] if host]


def test_the_harness_is_the_super_user_of_containers_too() -> None:
    lines = (COMPOSE_FILE.parent / "tests/servers/zookeeper_files/zoo.cfg").read_text(encoding="utf-8").splitlines()
    assert f"DigestAuthenticationProvider.superDigest={super_digest()}" in lines


@pytest.mark.parametrize(
    ("programs", "working", "root", "may_start", "reason"),
    [
        ((), (), True, True, "no program docker"),
        (("docker",), (), True, True, "neither `docker compose` nor docker-compose"),
        (("docker", "docker-compose"), ("docker-compose",), True, False, "no Docker Engine answers this user"),
        (("docker", "docker-compose"), ("docker-compose",), True, True, "no Docker Engine and no program dockerd"),
        (
            ("docker", "docker-compose", "dockerd"),
            ("docker-compose",),
            False,
            True,
            "no Docker Engine and dockerd may not be started by this user",
        ),
    ],
)
def test_what_is_lacking_is_told(
    monkeypatch: pytest.MonkeyPatch,
    programs: tuple[str, ...],
    working: tuple[str, ...],
    root: bool,
    may_start: bool,
    reason: str,
) -> None:
    def which(name: str, path: str | None = None) -> str | None:
        return f"/usr/bin/{name}" if name in programs else None

    def succeeds(command: tuple[str, ...], environment: Mapping[str, str]) -> bool:
        return command[0] in working

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(compose_engine, "_succeeds", succeeds)
    with pytest.raises(NoEngine) as lacking, compose_engine.engine(may_start=may_start):
        pass
    assert str(lacking.value) == reason


def test_the_newer_compose_is_preferred_and_a_running_engine_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(compose_engine, "_succeeds", lambda command, environment: True)
    with compose_engine.engine(may_start=True) as found:
        assert found == Engine(("docker", "compose"), {})


def test_a_failed_command_is_told_by_its_last_line() -> None:
    failed = EngineFailed(("docker", "pull", "oracle"), "trying\nno such host\n\n")
    assert failed.last_words == "no such host"
    assert "trying" in str(failed)
    assert EngineFailed(("docker", "pull", "oracle"), "").last_words == "without a word"


def _text() -> str:
    return COMPOSE_FILE.read_text(encoding="utf-8")


def _services() -> list[str]:
    return re.findall(r"^  (\w+):\n    <<", _text(), re.MULTILINE)
