"""How elections lie in ZooKeeper: paths that never meet, nodes that are told apart, and an order that survives a wrap.

The rule: elections never share a path, and what somebody else has written is never taken for ours.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coordkit.backends.zookeeper.layout import (
    Entry,
    Place,
    candidate_of,
    data_of,
    entries_of,
    guid_of,
    proclaimed_by,
    proclamation,
    refused,
    wrapped,
)
from coordkit.errors import ConfigError
from coordkit.model import CandidateInfo, check_election

LOOK_ALIKES = ("a", "ab", "a/b", "a%2Fb", "a%252Fb", "a%proclaimed", "zookeeper", "%7Aookeeper", "Zookeeper", ".", "..")
GUID = guid_of(2**127 + 1)
ENTRY = Entry("_c_x", GUID, 0)


def valid(name: str) -> bool:
    try:
        check_election(name)
    except ConfigError:
        return False
    return True


close_ones = st.text("ab/%27FAzokeper.proclaimed", min_size=1, max_size=10)
elections = (st.sampled_from(LOOK_ALIKES) | close_ones | st.text(min_size=1, max_size=20)).filter(valid)
chroots = st.sampled_from(["", "/a", "/a/b", "/zookeeper1"])
sequences = st.integers(-(2**31), 2**31 - 1)
texts = st.text(max_size=30)
candidates = st.builds(CandidateInfo, texts, texts, texts)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
foreign = st.binary(max_size=40) | jsons.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000)


def named(guid: str, sequence: int) -> str:
    """As servers name a node: Java's `%010d`."""
    return f"_c_{guid}-latch-{sequence:010d}"


def entry(sequence: int) -> Entry:
    return Entry(named(GUID, sequence), GUID, sequence)


# -- paths -------------------------------------------------------------------------------------------------


@given(chroots, elections, elections)
@example("", "zookeeper", "%7Aookeeper")
@example("", "a", "a%proclaimed")
@example("", "a", "a/b")
def test_elections_share_nothing(chroot: str, one: str, other: str) -> None:
    assume(one != other)
    first, second = Place(chroot, one), Place(chroot, other)
    paths = {first.path, first.proclaimed, second.path, second.proclaimed}
    assert len(paths) == 4
    assert not any(path.startswith(f"{above}/") for path in paths for above in paths)


@given(chroots, elections)
@example("", "zookeeper")
def test_a_path_is_one_that_the_servers_take(chroot: str, election: str) -> None:
    """One segment below the chroot, and none of what ZooKeeper's PathUtils refuses."""
    place = Place(chroot, election)
    for path in (place.path, place.proclaimed):
        assert path.rpartition("/")[0] == chroot
        assert path.rpartition("/")[2] not in ("", ".", "..")
        assert path != "/zookeeper"
        assert not any(refused(char) for char in path)
    assert place.node("n") == f"{place.path}/n"


@pytest.mark.parametrize(
    "number", [0, 0x1F, 0x7F, 0x9F, 0xD800, 0xDFFF, 0xE000, 0xF8FF, 0xFFF0, 0xFFFF, 0x10000, 0x1F600], ids=hex
)
def test_what_no_path_may_have(number: int) -> None:
    """Source: ZooKeeper's PathUtils.validatePath, which looks at units of UTF-16."""
    assert refused(chr(number))


@pytest.mark.parametrize("char", [" ", "~", "\xa0", "é", "\ud7ff", "\uf900", "\uffef", "%", "."])
def test_what_any_path_may_have(char: str) -> None:
    assert not refused(char)


# -- names -------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**128 - 1), sequences)
@example(0, -(2**31))
@example(2**128 - 1, -999_999_999)
@example(1, 2**31 - 1)
def test_every_node_of_ours_is_found(number: int, sequence: int) -> None:
    """By its guid and its sequence, also after the wrap, when some sequences have nine digits [tried: 3.8.0]."""
    guid = guid_of(number)
    prefix = Place("/chroot", "e").prefix(guid)
    path = f"{prefix}{sequence:010d}"
    (found,) = entries_of([path.rpartition("/")[2]])
    assert found == Entry(named(guid, sequence), guid, sequence)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "latch",
        f"_c_{GUID}-latch-",
        f"_c_{GUID}-latch-000000001",
        f"_c_{GUID}-latch-00000000001",
        f"_c_{GUID}-latch--00000001",
        f"_c_{GUID}-lock-0000000001",
        f"{GUID}-latch-0000000001",
        f"x_c_{GUID}-latch-0000000001",
        f"_c_{GUID}-latch-0000000001\n",
        f"_c_{GUID}-latch-000000000\u0661",
        f"_c_{GUID.upper()}-latch-0000000001",
        "c2f0__lock__0000000001",
    ],
)
def test_what_is_named_otherwise_is_no_candidate(name: str) -> None:
    assert entries_of([name]) == []


@given(st.integers(0, 2**128 - 1))
def test_a_guid_is_a_random_uuid(number: int) -> None:
    """As Curator's: version 4, so that it takes the node for one of its own kind."""
    guid = guid_of(number)
    assert [len(part) for part in guid.split("-")] == [8, 4, 4, 4, 12]
    assert (guid[14], guid[19]) == ("4", "a")


def test_guids_differ() -> None:
    """By 120 bits: eight are always the same."""
    assert len({guid_of(1 << bit) for bit in range(128)} - {guid_of(0)}) == 120


# -- order -------------------------------------------------------------------------------------------------


@given(st.lists(sequences, unique=True, max_size=8), st.randoms())
def test_the_order_is_that_of_the_sequences(numbers: list[int], chance: object) -> None:
    names = [named(GUID, number) for number in numbers]
    assert [each.sequence for each in entries_of([*names, "foreign"])] == sorted(numbers)


@given(sequences, st.lists(st.integers(0, 2**29), min_size=1, max_size=8))
@example(2**31 - 3, [0, 1, 2, 3, 4])
def test_an_order_that_a_wrap_has_broken_is_known(first: int, steps: list[int]) -> None:
    """As long as less than 2**29 have come since the oldest that is there: either the order stands, or it is told."""
    come = [(first + step + 2**31) % 2**32 - 2**31 for step in sorted(set(steps))]
    entries = entries_of([named(GUID, sequence) for sequence in come])
    assert wrapped(entries) or [each.sequence for each in entries] == come


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([], False),
        ([0], False),
        ([0, 1, 2**30 - 1], False),
        ([0, 2**30], True),
        ([-(2**31), 2**31 - 1], True),
        ([-1, 0, 1], True),
        ([2**31 - 2, 2**31 - 1], False),
    ],
)
def test_when_the_sequences_may_not_tell(numbers: list[int], told: bool) -> None:
    assert wrapped([entry(number) for number in numbers]) is told


def test_one_sequence_of_two_tells_no_order() -> None:
    """From 3.6 on the counter stays at its end, so that all who come have the same [tried: ZooKeeper 3.8.0]."""
    names = [named(guid_of(number), 2**31 - 1) for number in (1, 2)]
    assert wrapped(entries_of(names))


# -- what a node says --------------------------------------------------------------------------------------


@given(candidates)
def test_a_candidate_is_read_back(candidate: CandidateInfo) -> None:
    assert candidate_of(ENTRY, data_of(candidate)) == candidate


@given(foreign)
@example(b"")
@example(b'{"coordkit": 1}')
@example(b'{"coordkit": 1, "id": 1, "label": "", "metadata": ""}')
@example(b'{"coordkit": 1, "id": "\\ud800", "label": "", "metadata": ""}')
def test_whatever_else_is_written_is_shown_and_is_nobodys_id(data: bytes) -> None:
    """A program of Curator writes what it likes. Its name in the queue is what it is known by."""
    found = candidate_of(ENTRY, data)
    if found.id != ENTRY.name:
        assert json.loads(data)["coordkit"] == 1
    else:
        assert found.label == data.decode(errors="replace")[:200]
    assert candidate_of(ENTRY, None) == CandidateInfo(ENTRY.name, "")


@given(texts, texts)
def test_a_proclamation_is_read_back_by_whom_it_is(one: str, metadata: str) -> None:
    data = proclamation(one, metadata)
    assert proclaimed_by(one, data) == metadata
    assert proclaimed_by(f"{one}x", data) is None


@given(texts, foreign)
@example("a", b'{"id": "a"}')
@example("a", b'{"id": "a", "metadata": 1}')
def test_whatever_else_is_proclaimed_is_nothing(one: str, data: bytes) -> None:
    found = proclaimed_by(one, data)
    assert found is None or json.loads(data)["metadata"] == found
    assert proclaimed_by(one, None) is None
