"""What versions of etcd mean, and what keys under a prefix are."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from coordkit.backends.etcd.doctor import Shelf, judged
from coordkit.backends.etcd.layout import Place, record_value, value_of
from coordkit.findings import Verdict
from coordkit.model import CandidateInfo

LEASE = 0x77
ME = CandidateInfo("me")


def kv(key: bytes, value: bytes = b"", lease: int = 0) -> Any:
    return SimpleNamespace(key=key, value=value, lease=lease, create_revision=5, mod_revision=5)


def entry(prefix: str, election: str, lease: int = LEASE, *, records: bool | None = True) -> Any:
    """A candidate's key; `records` is None for one that is not of coordkit."""
    value = b"theirs" if records is None else value_of(ME, "", records=records)
    return kv(Place(prefix, election).entry(lease), value, lease)


def record(prefix: str, election: str, value: bytes | None = None) -> Any:
    written = record_value(LEASE, ME.id, 2.0, leading=False) if value is None else value
    return kv(Place(prefix, election).record, written)


def shelf(prefix: str, *kvs: Any) -> Shelf:
    made = Shelf(prefix)
    for each in kvs:
        made.put(each)
    for each in kvs:
        if each.key in made.entries or each.key in made.records:
            made.read(each, made.place(each.key))
    return made


def told(made: Shelf) -> dict[Verdict, list[str]]:
    found: dict[Verdict, list[str]] = {}
    for finding in made.findings():
        found.setdefault(finding.verdict, []).append(finding.detail)
    return found


@pytest.mark.parametrize("prefix", ["", "apps/", "/apps/"])
@pytest.mark.parametrize("election", ["x", "reports/nightly", "100%", "ä ö", "x.coordkit", "%2F"])
def test_entries_and_records_are_known_by_their_keys(prefix: str, election: str) -> None:
    made = shelf(prefix, entry(prefix, election), entry(prefix, election, 0x78), record(prefix, election))
    assert made.elections == {election}
    assert (len(made.entries), len(made.records)) == (2, 1)
    assert not made.strange
    assert not told(made)


@pytest.mark.parametrize(
    "foreign",
    [
        kv(b"apps/foreign"),
        kv(b"apps/x/77"),  # without a lease
        kv(b"apps/x/78", lease=LEASE),  # of another lease than it names
        kv(b"apps/x/77/more", lease=LEASE),
        kv(b"apps/a/b/77", lease=LEASE),  # no election is encoded so
        kv(b"apps/a%2fb/77", lease=LEASE),  # nor so
        kv(b"apps/a%zz.coordkit"),
        kv(b"apps/\xff\xfe/77", lease=LEASE),
        kv(b"apps/78", lease=LEASE),
    ],
    ids=lambda each: each.key.decode(errors="replace"),
)
def test_what_is_not_of_the_layout_is_told_of_and_does_no_harm(foreign: Any) -> None:
    made = shelf("apps/", foreign, entry("apps/", "x"))
    assert made.strange
    assert made.elections == {"x"}
    (detail,) = told(made)[Verdict.WARNING]
    assert detail.startswith("1 key not of the layout: ")
    assert set(told(made)) == {Verdict.WARNING}


def test_a_prefix_that_is_the_name_of_an_election_of_others_is_told_of() -> None:
    made = shelf("apps/", kv(b"apps/77", b"theirs", LEASE))
    (detail,) = told(made)[Verdict.WARNING]
    assert "the prefix is the name of an election, with 1 candidate: 'apps/77'" in detail


def test_without_a_prefix_there_is_no_such_election() -> None:
    assert "1 key not of the layout" in told(shelf("", kv(b"77", b"theirs", LEASE)))[Verdict.WARNING][0]


def test_a_record_of_somebody_else_is_a_failure() -> None:
    made = shelf("apps/", record("apps/", "x", b"mine!"), record("apps/", "y"))
    (detail,) = told(made)[Verdict.FAILED]
    assert detail == "the records of x hold something else"


@pytest.mark.parametrize(
    ("kinds", "mixed"),
    [
        ([True, True], False),
        ([False, False], False),
        ([None, None], False),
        ([False, None], False),  # none of them keeps records
        ([True, False], True),
        ([True, None], True),
    ],
)
def test_candidates_with_and_without_records_in_one_election_are_told_of(kinds: list[bool | None], mixed: bool) -> None:
    made = shelf("", *(entry("", "x", number, records=kind) for number, kind in enumerate(kinds, 1)))
    assert made.strange is mixed
    assert told(made).get(Verdict.WARNING, []) == (
        ["in x some candidates keep records, and others do not (etcdctl, Go, trust_leases)"] if mixed else []
    )


@pytest.mark.parametrize(
    ("versions", "verdict"),
    [
        ({"a": "3.4.23", "b": "3.5.16"}, Verdict.OK),
        ({"a": "3.6.0-rc.1"}, Verdict.OK),
        ({"a": "3.4.30", "b": "3.2.32"}, Verdict.FAILED),
        ({"a": "2.3.8"}, Verdict.FAILED),
        ({"a": "3.3.27"}, Verdict.WARNING),
        ({"a": "3.4.19"}, Verdict.OK),
        ({"a": "3.4.20"}, Verdict.WARNING),
        ({"a": "3.4.21"}, Verdict.WARNING),
        ({"a": "3.4.22"}, Verdict.OK),
        ({"a": "3.5.0"}, Verdict.WARNING),
        ({"a": "3.5.5", "b": "3.5.6"}, Verdict.WARNING),
        ({"a": "3.5.6"}, Verdict.OK),
        ({}, Verdict.UNCHECKED),
    ],
)
def test_what_versions_mean(versions: Mapping[str, str], verdict: Verdict) -> None:
    found = judged(versions, ["c"])
    assert found.verdict is verdict
    assert "c" in found.detail
    for version in versions.values():
        assert version in found.detail
