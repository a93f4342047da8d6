"""A value that exists is valid: whatever is wrong with one is a `ConfigError` when it is made.

The rule: names, metadata, labels, seconds and tokens are checked here once, for every backend alike.
"""

from __future__ import annotations

import math
import pickle
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.errors import ConfigError
from coordkit.model import (
    MAX_METADATA_BYTES,
    MAX_TOKEN,
    MAX_TTL,
    CandidateInfo,
    FencingToken,
    Guarantees,
    LeaderInfo,
    LossReason,
    TermState,
    check_election,
    check_label,
    check_metadata,
    check_seconds,
    encode_election,
)


def shown(value: object) -> str:
    """A short name for a test: some values are long on purpose, or cannot be written down."""
    return "huge" if isinstance(value, int) and value > 2**70 else ascii(value)[:20]


# -- names of elections ----------------------------------------------------------------------------------


def is_good(segment: str) -> bool:
    return segment not in ("", ".", "..") and "/" not in segment


segments = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(is_good)
)
# A combining mark at the start of a segment may not compose across '/', so joining keeps NFC.
names = (
    st.lists(segments, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda name: len(name.encode()) <= 255 and unicodedata.is_normalized("NFC", name))
)


@given(names)
def test_good_names_pass_unchanged(name: str) -> None:
    assert check_election(name) == name


@pytest.mark.parametrize("name", ["a", "reports/nightly", "a" * 255, "ü" * 127 + "x", "...", "a..b", ".a", "a b", "%"])
def test_names_at_the_edge_of_the_rules_are_good(name: str) -> None:
    assert check_election(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (7, "is a str, not int"),
        (None, "is a str, not NoneType"),
        (b"bytes", "is a str, not bytes"),
        ("", "1 to 255 bytes"),
        ("a" * 256, "has 256"),
        ("ü" * 128, "has 256"),
        ("a\nb", "control characters"),
        ("a\x00b", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x85b", "control characters"),
        ("e\u0301", "NFC"),
        ("\u212b", "NFC"),
        ("/a", "none empty"),
        ("a/", "none empty"),
        ("a//b", "none empty"),
        (".", "'.' or '..'"),
        ("a/..", "'.' or '..'"),
        ("./a", "'.' or '..'"),
        ("a\ud800", "lone surrogate"),
    ],
    ids=shown,
)
def test_bad_names_are_refused_with_the_rule(name: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_election(name)


@given(names)
def test_an_encoded_name_is_one_segment_and_decodes_to_the_name(name: str) -> None:
    encoded = encode_election(name)
    assert "/" not in encoded
    assert unquote(encoded) == name


@given(names, names)
def test_no_two_names_share_an_encoding(one: str, other: str) -> None:
    assert (encode_election(one) == encode_election(other)) == (one == other)


@given(names.filter(lambda name: "/" not in name and "%" not in name))
def test_names_without_slash_and_percent_are_what_foreign_programs_use(name: str) -> None:
    assert encode_election(name) == name


def test_what_a_store_reserves_is_encoded_byte_by_byte() -> None:
    assert encode_election("a:b/c%", reserved=":") == "a%3Ab%2Fc%25"
    assert encode_election("aü", reserved="ü") == "a%C3%BC"


# -- metadata, labels, seconds ---------------------------------------------------------------------------


def test_metadata_is_at_most_64_kib_of_utf8() -> None:
    assert check_metadata("x" * MAX_METADATA_BYTES) == "x" * MAX_METADATA_BYTES
    assert check_metadata("") == ""
    assert check_metadata("line\nline\0") == "line\nline\0"
    with pytest.raises(ConfigError, match="65536 bytes of UTF-8, this has 65538"):
        check_metadata("ü" * (MAX_METADATA_BYTES // 2 + 1))


@pytest.mark.parametrize(("metadata", "said"), [(b"x", "str, not bytes"), (None, "NoneType"), ("\udfff", "surrogate")])
def test_metadata_of_another_kind_is_refused(metadata: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_metadata(metadata)


@pytest.mark.parametrize("label", ["", "web-1", "ü" * 127])
def test_good_labels(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize(
    ("label", "said"),
    [(1, "str, not int"), ("a" * 256, "255 bytes"), ("a\tb", "control"), ("\ud800", "surrogate")],
)
def test_bad_labels(label: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_label(label)


@given(st.floats(min_value=1e-300, max_value=MAX_TTL) | st.integers(1, int(MAX_TTL)))
def test_seconds_are_positive_numbers(value: float) -> None:
    seconds = check_seconds(value, "ttl")
    assert type(seconds) is float
    assert seconds == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1", "a number of seconds, not str"),
        (None, "NoneType"),
        (True, "bool"),
        (0, "finite and > 0"),
        (-1, "finite and > 0"),
        (-0.0, "finite and > 0"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (MAX_TTL * 1.01, "at most"),
        (10**400, "too large"),
    ],
    ids=shown,
)
def test_other_seconds_are_refused_by_name(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^ttl is .*{said}|^ttl must be {said}"):
        check_seconds(value, "ttl")


def test_zero_seconds_where_zero_means_something() -> None:
    assert check_seconds(0, "hold", zero=True) == 0.0
    with pytest.raises(ConfigError, match=">= 0"):
        check_seconds(-0.1, "hold", zero=True)


# -- tokens ----------------------------------------------------------------------------------------------

values = st.integers(1, MAX_TOKEN)
tokens = st.builds(FencingToken, names, values)


@given(tokens)
def test_a_token_reads_and_parses_back(token: FencingToken) -> None:
    assert FencingToken.parse(str(token)) == token
    assert FencingToken.from_headers(token.headers()) == token
    assert pickle.loads(pickle.dumps(token)) == token
    assert int(token) == token.value


@given(tokens)
def test_the_header_of_a_token_is_ascii(token: FencingToken) -> None:
    assert token.headers()["Fencing-Token"].isascii()
    assert FencingToken.from_headers({"fencing-token": token.headers()["Fencing-Token"]}) == token


@given(names, values, values)
def test_tokens_of_one_election_are_ordered_by_value(name: str, one: int, other: int) -> None:
    a, b = FencingToken(name, one), FencingToken(name, other)
    assert (a < b, a <= b, a > b, a >= b, a == b) == (
        one < other,
        one <= other,
        one > other,
        one >= other,
        one == other,
    )


def test_tokens_of_two_elections_have_no_order_but_differ() -> None:
    a, b = FencingToken("a", 1), FencingToken("b", 2)
    for compare in (lambda: a < b, lambda: a <= b, lambda: a > b, lambda: a >= b):
        with pytest.raises(ConfigError, match="'a' and 'b'"):
            compare()
    assert a != b
    with pytest.raises(TypeError):
        assert a < 2  # type: ignore[operator]


@pytest.mark.parametrize("value", [0, -1, MAX_TOKEN + 1, 1.0, "1", True, None, 10**5000], ids=shown)
def test_a_token_is_a_whole_number_of_63_bits(value: object) -> None:
    with pytest.raises(ConfigError, match="whole number") as caught:
        FencingToken("a", value)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


MALFORMED = ["", "a", "=1", "a=", "a=0", "a=01", "a=-1", "a=+1", "a= 1", "a=1 ", "a=1.0", "a/=1"]
MALFORMED += ["a=\u0661", "a=9223372036854775808", "a=" + "1" * 5000, "x" * 400 + "=1"]


@pytest.mark.parametrize("text", MALFORMED, ids=shown)
def test_only_what_str_wrote_parses(text: str) -> None:
    with pytest.raises(ConfigError):
        FencingToken.parse(text)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Fencing-Token": "a=1", "fencing-token": "a=1"}, {"Fencing-Token": "%FF=1"}, {"Fencing-Token": "a"}],
)
def test_a_request_has_one_well_formed_token(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        FencingToken.from_headers(headers)


# -- the other values ------------------------------------------------------------------------------------

CANDIDATE = CandidateInfo("id", "label", "metadata")
VALUES = [
    CANDIDATE,
    FencingToken("a", 1),
    LeaderInfo(CANDIDATE, FencingToken("a", 1), "x"),
    Guarantees("memory", "a counter", True, ("s",), ("n",)),
    *TermState,
    *LossReason,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_pickle_hash_and_do_not_change(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert hash(value) == hash(pickle.loads(pickle.dumps(value)))
    name = next(iter(getattr(type(value), "__dataclass_fields__", {"name": None})))
    with pytest.raises(AttributeError):
        setattr(value, name, "changed")


def test_the_states_and_reasons_are_those_of_the_design() -> None:
    assert [state.name for state in TermState] == ["LEADING", "JEOPARDY", "LOST", "RESIGNED"]
    assert {reason.name for reason in LossReason} == {
        "EXPIRED",
        "REVOKED",
        "CLOSED",
        "FORKED",
        "ENGINE_DIED",
        "INELIGIBLE",
    }


def test_guarantees_can_be_narrowed_but_not_changed() -> None:
    promised = Guarantees("memory", "a counter", True, ("crashes",), ("suspend",))
    narrowed = promised.but_not("foreign contenders")
    assert narrowed == Guarantees("memory", "a counter", True, ("crashes",), ("suspend", "foreign contenders"))
    assert promised.not_covered == ("suspend",)
