"""etcd's messages on the protobufs that people have: the oldest that is promised, 5, and the newest.

Whoever imports first, coordkit and etcd3 both work; so does another etcd library in the same process, which wants the
same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration import stubs_scenes
from tests.servers.etcd import Etcd
from tests.support.environments import HERE, NotMade, environment

pytestmark = [pytest.mark.backend("etcd"), pytest.mark.timeout(360)]  # the first run of all fetches packages

# The lower bounds of pyproject.toml, all at once; there protobuf is pure Python.
OLDEST = ("etcd3==0.12.0", "grpcio==1.50.*", "protobuf==3.20.*", "tenacity==8.3.*", "aioetcd3==1.13")
FIVE = ("etcd3", "grpcio", "protobuf==5.*")
NEWEST = ("etcd3", "grpcio", "protobuf")
BESIDE = ("etcd3", "grpcio", "protobuf", "aetcd==1.0.0", "etcd-sdk-python==0.0.7")

PURE = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
REFUSED = "TypeError"  # what becomes of etcd3's own stubs on protobuf 4 and later
USUAL = "ignore"  # warnings: where etcd3's own stubs load, protobuf warns of them

each_protobuf = pytest.mark.parametrize(
    ("requirements", "version", "by"),
    [(OLDEST, (3, 20), "python"), (FIVE, (5,), "upb"), (NEWEST, (6,), "upb")],
    ids=["oldest", "five", "newest"],
)


def is_version(told: str, wanted: tuple[int, ...]) -> bool:
    """Whether the version is of that series; of the last one, or a later one."""
    found = tuple(int(part) for part in told.split(".")[: len(wanted)])
    return found >= wanted if wanted == (6,) else found == wanted


@each_protobuf
def test_coordkit_first(requirements: tuple[str, ...], version: tuple[int, ...], by: str) -> None:
    told = environment(*requirements).play(stubs_scenes.coordkit_first)
    assert is_version(told["protobuf"], version)
    assert told["by"] == by
    assert told["made"]
    assert told["in_default_pool"] == []  # nothing is in the way of others


@each_protobuf
def test_etcd3_first(requirements: tuple[str, ...], version: tuple[int, ...], by: str) -> None:
    told = environment(*requirements).play(stubs_scenes.etcd3_first, warnings=USUAL)
    assert is_version(told["protobuf"], version)
    if version == (3, 20):
        assert told["alone"] == "imported"
        assert not told["made"]  # what the program has is used
    else:
        assert told["alone"] == REFUSED
        assert told["made"]


@pytest.mark.parametrize("requirements", [FIVE, NEWEST], ids=["five", "newest"])
def test_protobuf_in_pure_python(requirements: tuple[str, ...]) -> None:
    told = environment(*requirements).play(stubs_scenes.coordkit_first, env=PURE)
    assert told["by"] == "python"
    assert told["made"]
    assert told["in_default_pool"] == []
    told = environment(*requirements).play(stubs_scenes.etcd3_first, env=PURE, warnings=USUAL)
    assert told["by"] == "python"
    assert told["alone"] == "imported"
    assert not told["made"]


def test_what_is_made_has_all_that_etcd3s_own_stubs_have() -> None:
    old = environment(*OLDEST)
    own = old.play(stubs_scenes.interface, "etcd3", warnings=USUAL)
    made = old.play(stubs_scenes.interface, "coordkit")
    assert made == own
    assert "etcd3.etcdrpc.KVStub" in made
    assert "etcd3.etcdrpc.rpc_pb2.TxnRequest" in made


@pytest.mark.parametrize("first", ["coordkit", "library"])
@pytest.mark.parametrize("pure", [False, True], ids=["upb", "pure"])
@pytest.mark.parametrize("library", ["aetcd", "pyetcd"])
def test_another_library_in_the_process(library: str, pure: bool, first: str) -> None:
    told = environment(*BESIDE).play(stubs_scenes.neighbours, library, first, env=PURE if pure else {})
    assert told["by"] == ("python" if pure else "upb")
    assert "rpc.proto" in told["in_default_pool"]  # theirs


@pytest.mark.parametrize("first", ["coordkit", "library"])
def test_another_library_of_the_time_of_etcd3(first: str) -> None:
    told = environment(*OLDEST).play(stubs_scenes.neighbours, "aioetcd3", first, warnings=USUAL)
    assert is_version(told["protobuf"], (3, 20))
    assert "rpc.proto" in told["in_default_pool"]


@each_protobuf
def test_leading_and_etcd3s_client(
    requirements: tuple[str, ...], version: tuple[int, ...], by: str, etcd: Etcd[Any]
) -> None:
    member = etcd.members[0]
    told = environment(*requirements).play(stubs_scenes.lead, etcd.url("stubs"), member.host, member.port)
    assert is_version(told["protobuf"], version)
    assert told["by"] == by
    assert told["token"] > 0
    assert etcd.ctl("get", "etcd3/key", "--print-value-only") == "moved\n"
    assert etcd.leases() == []


@pytest.mark.parametrize("first", ["coordkit", "library"])
@pytest.mark.parametrize("library", ["aetcd", "pyetcd"])
def test_leading_beside_another_librarys_client(library: str, first: str, etcd: Etcd[Any]) -> None:
    member = etcd.members[0]
    told = environment(*BESIDE).play(
        stubs_scenes.lead_beside, library, first, etcd.url("stubs"), member.host, member.port
    )
    assert told["token"] > 0
    assert etcd.ctl("get", f"beside/{library}", "--print-value-only") == "beside\n"


@pytest.mark.parametrize("package", ["etcd3", "grpc", "google", "google.protobuf", "six"])
def test_a_missing_package_is_told_with_the_line_that_mends_it(package: str) -> None:
    line = f"{package.partition('.')[0]} is not installed: pip install 'coordkit[etcd]'"
    assert HERE.play(stubs_scenes.missing, package) == [[line, "ModuleNotFoundError"]] * 2


def test_many_threads_ask_at_once() -> None:
    assert HERE.play(stubs_scenes.threads)["loaded"] == 8


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("module", ["etcd3.etcdrpc", "etcd3.etcdrpc.kv_pb2"])
def test_another_thread_is_about_to_be_refused(module: str, when: str) -> None:
    told = HERE.play(stubs_scenes.caught_in_the_act, module, when)
    assert told["tried"] == [REFUSED]
    assert told["made"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_another_thread_is_importing_stubs_that_work(when: str) -> None:
    old = environment(*OLDEST)
    told = old.play(stubs_scenes.caught_in_the_act, "etcd3.etcdrpc.kv_pb2", when, warnings=USUAL)
    assert told["tried"] == ["imported"]
    assert not told["made"]


def test_no_warning_on_the_way_in(tmp_path: Path) -> None:
    """`play` makes errors of warnings; here those too that Python gives when it compiles a source."""
    anew = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    told = environment(*NEWEST).play(stubs_scenes.coordkit_first, env=anew)
    assert told["made"]
    assert [*tmp_path.rglob("etcd3/**/*.pyc")]


def test_what_pip_cannot_fetch_is_a_failure() -> None:
    with pytest.raises(NotMade, match="pip failed with"):
        environment("etcd3==0.0.0")
