"""How a voter's answers are read: what is not exactly of the layout is foreign."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.backends.redis.layout import (
    EPOCH_LIMIT,
    UNREADABLE,
    Record,
    channel_of,
    config_of,
    leader_of,
    record_of,
    reply_of,
    value_of,
    verdict_of,
    word_of,
)
from coordkit.errors import OutcomeUnknown
from coordkit.model import CandidateInfo

WRITTEN = b'1795584154773321 1795584154773320 57f1 12 held 10000 b0 {"id":"me"}'
RECORD = Record(1795584154773321, 1795584154773320, "57f1", 12, True, 10.0, "b0", b'{"id":"me"}')
REPLY: list[object] = [b"nonce", b"healthy", b"b0", b"run:replid", b"1795584154773321", b"", [b"x"]]


def test_a_record_is_read_as_it_is_written() -> None:
    assert record_of(WRITTEN) == RECORD
    assert record_of(WRITTEN.replace(b"held", b"released")) == Record(
        RECORD.epoch, RECORD.floor, "57f1", 12, False, 10.0, "b0", RECORD.value
    )
    assert record_of(b"") is None
    assert RECORD.stamp == "57f1.12"


@pytest.mark.parametrize(
    "text",
    [
        *(b"x", b"1", b"-1 0 a 0 held 1 b v", b"1 0 a 0 stolen 1 b v", b"1 0 a 0 held 1", b"1.5 0 a 0 held 1 b v"),
        f"{EPOCH_LIMIT} 0 a 0 held 1 b v".encode(),
        f"0 {EPOCH_LIMIT} a 0 held 1 b v".encode(),
        b"1 99999999999999999 a 0 held 1 b v",
        b"0 7 a 0 held 1 b v",  # nobody has voted for it
        *(None, 7, "1 0 a 0 held 1 b v", [b"1"]),
    ],
)
def test_what_is_no_record_of_ours_is_foreign(text: object) -> None:
    assert record_of(text) is UNREADABLE


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_foreign_or_nothing(text: bytes) -> None:
    found = record_of(text)
    assert found is None or found is UNREADABLE or isinstance(found, Record)
    word_of(text)
    leader_of("e", Record(1, 0, "a", 0, True, 1.0, "b", text))


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=200), st.text(max_size=200))
def test_who_leads_is_read_as_it_was_written(name: str, label: str, metadata: str, proclaimed: str) -> None:
    candidate = CandidateInfo(name, label, metadata)
    try:
        value = value_of(candidate, proclaimed).encode()
    except UnicodeEncodeError:
        return  # lone surrogates are refused before
    told = leader_of("e", Record(5, 0, "a", 0, True, 1.0, "b", value))
    assert (told.candidate, told.metadata, int(told.token)) == (candidate, proclaimed, 5)


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b"[1]", b'{"id":1,"label":"","metadata":""}', b'{"id":"x"}', b"\xff", b"[" * 100_000],
)
def test_whose_value_nobody_can_read_is_called_by_his_attempt(value: bytes) -> None:
    assert leader_of("e", Record(5, 0, "a", 0, True, 1.0, "b", value)).candidate == CandidateInfo("a")


def test_an_answer_is_that_to_its_own_request() -> None:
    reply = reply_of(REPLY, "nonce")
    assert (reply.standing, reply.birth, reply.server, reply.time) == ("healthy", "b0", "run", 1795584154773321)
    assert reply.answers == (b"x",)
    with pytest.raises(OutcomeUnknown, match="another request"):
        reply_of(REPLY, "other")


@pytest.mark.parametrize("place", range(7))
def test_an_answer_of_another_shape_is_none(place: int) -> None:
    for wrong in (None, 5, "text", b"", [b"x"]):
        broken = [*REPLY[:place], wrong, *REPLY[place + 1 :]]
        if place in (1, 2, 3, 5) and wrong == b"":
            continue  # these may be empty
        if place == 6 and wrong == [b"x"]:
            continue
        with pytest.raises(OutcomeUnknown):
            reply_of(broken, "nonce")
    for raw in (None, b"OK", 1, [], REPLY[:6], [*REPLY, b"more"]):
        with pytest.raises(OutcomeUnknown):
            reply_of(raw, "nonce")


def test_a_verdict_comes_with_the_record() -> None:
    assert verdict_of([b"granted", WRITTEN]) == ("granted", RECORD)
    assert verdict_of([b"gone", b""]) == ("gone", None)
    assert verdict_of([b"unreadable", b""]) == ("unreadable", UNREADABLE)
    for other in (None, b"granted", [b"granted"], [1, 2], []):
        assert verdict_of(other) == ("unreadable", UNREADABLE)


def test_a_word_is_read_as_it_is_published() -> None:
    bare = WRITTEN.rpartition(b" ")[0]
    word = word_of(b"renewed 4 " + bare)
    assert word is not None
    assert (word.verb, word.listening) == ("renewed", 4)
    assert word.record == Record(RECORD.epoch, RECORD.floor, "57f1", 12, True, 10.0, "b0")
    assert word_of(b"call") is not None
    for other in (b"", b"hello", b"renewed", b"renewed 4", b"stolen 4 " + bare, b"held x y"):
        assert word_of(other) is None
    assert word_of(b"held many " + bare) is not None, "only the count is in doubt"


def test_what_was_agreed_on_names_the_longest_lease_the_number_and_the_list() -> None:
    one = config_of(60.0, ["b:1", "a:1", "c:1"], "")
    assert one == config_of(60.0, ["a:1", "b:1", "c:1"], ""), "the order does not matter"
    assert one.startswith("60000/3/")
    others = [
        config_of(61.0, ["a:1", "b:1", "c:1"], ""),
        config_of(60.0, ["a:1", "b:1", "d:1"], ""),
        config_of(60.0, ["a:1", "b:1"], ""),
        config_of(60.0, ["a:1", "b:1", "c:1"], "orders"),
    ]
    assert len({one, *others}) == 5
    assert config_of(1.0, ["a:1"], "orders") == config_of(1.0, ["z:1"], "orders"), "the name stands for the list"


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_a_name_of_any_kind_is_one_word_and_no_other_names(one: str, other: str) -> None:
    written = config_of(1.0, ["a:1"], one)
    assert not any(char.isspace() for char in written)
    assert written.isascii()
    assert (written == config_of(1.0, ["a:1"], other)) == (one == other)


def test_a_channel_is_of_one_key_and_one_election() -> None:
    assert channel_of("coordkit", "a/b") == b"coordkit:a/b"
    assert channel_of("coordkit", "büro") == "coordkit:büro".encode()
