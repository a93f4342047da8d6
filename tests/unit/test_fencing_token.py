"""`FencingToken`: exact to parse, ordered within its election alone, and never made of anything doubtful."""

from __future__ import annotations

import copy
import pickle
import unicodedata
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit import ConfigError, FencingToken

BIGGEST = 2**63 - 1

segments = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=20
).filter(lambda text: text not in (".", ".."))
elections = (
    st.lists(segments, min_size=1, max_size=4)
    .map(lambda parts: unicodedata.normalize("NFC", "/".join(parts)))
    .filter(lambda name: len(name.encode()) <= 255)
)
values = st.integers(1, BIGGEST)
tokens = st.builds(FencingToken, elections, values)


# -- round trips -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(tokens)
def test_parse_reads_what_str_wrote(token: FencingToken) -> None:
    assert FencingToken.parse(str(token)) == token


@settings(deadline=None)
@given(tokens)
def test_headers_round_trip_in_printable_ascii(token: FencingToken) -> None:
    headers = token.headers()
    assert list(headers) == ["Fencing-Token"]
    carried = headers["Fencing-Token"]
    assert carried.isascii()
    assert carried.isprintable()
    assert not set(carried) & set(' ",;')
    assert FencingToken.from_headers(headers) == token


@settings(deadline=None)
@given(tokens)
def test_pickle_and_copy_keep_the_token(token: FencingToken) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(token, protocol))
        assert again == token
        assert hash(again) == hash(token)
    assert copy.deepcopy(token) == token


@settings(deadline=None)
@given(st.text(max_size=60))
def test_parse_takes_exactly_what_str_writes(text: str) -> None:
    try:
        token = FencingToken.parse(text)
    except ConfigError:
        return
    assert str(token) == text


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_header_is_a_token_or_a_config_error(text: str) -> None:
    try:
        token = FencingToken.from_headers({"fencing-token": text})
    except ConfigError:
        return
    assert FencingToken.from_headers(token.headers()) == token


def test_shape() -> None:
    token = FencingToken("reports/nightly", 42)
    assert str(token) == "reports/nightly=42"
    assert int(token) == 42
    assert FencingToken("größe = 5 %", 7).headers() == {"Fencing-Token": "gr%C3%B6%C3%9Fe%20%3D%205%20%25=7"}
    assert FencingToken.parse("a=b=3") == FencingToken("a=b", 3)
    assert FencingToken.from_headers({"FENCING-TOKEN": "a%2fb=1"}) == FencingToken("a/b", 1)


# -- order -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(elections, values, values)
def test_order_within_an_election_is_that_of_the_numbers(election: str, one: int, other: int) -> None:
    first, second = FencingToken(election, one), FencingToken(election, other)
    assert (first < second, first <= second, first > second, first >= second, first == second) == (
        one < other,
        one <= other,
        one > other,
        one >= other,
        one == other,
    )
    assert max(first, second).value == max(one, other)


@pytest.mark.parametrize("compare", ["__lt__", "__le__", "__gt__", "__ge__"])
def test_tokens_of_two_elections_have_no_order(compare: str) -> None:
    with pytest.raises(ConfigError, match=r"no order: '[ab]' and '[ab]'"):
        getattr(FencingToken("a", 1), compare)(FencingToken("b", 2))


def test_tokens_of_two_elections_are_unequal_without_an_error() -> None:
    assert FencingToken("a", 1) != FencingToken("b", 1)
    assert len({FencingToken("a", 1), FencingToken("b", 1), FencingToken("a", 1)}) == 2


@pytest.mark.parametrize("other", [1, 1.0, "a=1", None, ("a", 1)])
def test_a_token_is_compared_with_tokens_alone(other: object) -> None:
    token = FencingToken("a", 1)
    assert token != other
    with pytest.raises(TypeError):
        token < other  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        other >= token  # type: ignore[operator]  # noqa: B015


# -- hostile input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 2**53 + 1, BIGGEST])
def test_the_whole_range_is_exact(value: int) -> None:
    token = FencingToken("a", value)
    assert int(FencingToken.parse(str(token))) == value
    assert int(FencingToken.from_headers(token.headers())) == value


@pytest.mark.parametrize(
    "value",
    [0, -1, BIGGEST + 1, 10**5000, True, 1.0, float("nan"), "1", b"1", None, [1]],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:8] if not isinstance(value, int) else value % 97}",
)
def test_a_value_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="whole number from 1") as caught:
        FencingToken("a", value)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "election",
    ["", "/", "a/", "/a", "a//b", ".", "a/..", "a\n", "a\x00", "a\x85b", "x" * 256, "é" * 128, "e\u0301", "\ud800"],
    ids=ascii,
)
def test_an_election_that_is_none_is_refused(election: str) -> None:
    for make in (FencingToken, lambda name, value: FencingToken.parse(f"{name}={value}")):
        with pytest.raises(ConfigError):
            make(election, 1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "=", "a", "a=", "=1", "a=0", "a=-1", "a=+1", "a= 1", "a=1 ", "a=01", "a=1_0", "a=1.0", "a=1e3", "a=0x1"),
        *("a=\u0661", "a=\u00b2", "a=\uff11", "a=1\n", "\na=1", f"a={BIGGEST + 1}", "a=" + "9" * 20, "a=" + "9" * 5000),
        "x" * 1_000_000 + "=1",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FencingToken.parse(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, 5, b"a=1", ["a=1"]])
def test_parse_takes_text_alone(value: object) -> None:
    with pytest.raises(ConfigError, match="parsed from a str"):
        FencingToken.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    [
        *("", "a", "=1", "a=0", "a=01", "a=1, a=2", "a=1,a=2", "a =1", "a= 1", "a;q=1", '"a"=1', "b=c=1", "größe=1"),
        *("%=1", "%4=1", "%zz=1", "a%FF=1", "a%00=1", "a%2F=1", "%2E%2E=1", "%ED%A0%80=1", "a%0d%0ab=1", "a=1\r\nx=2"),
    ],
    ids=ascii,
)
def test_a_header_that_is_no_token_is_refused(header: str) -> None:
    with pytest.raises(ConfigError):
        FencingToken.from_headers({"Fencing-Token": header})


def test_one_header_is_expected() -> None:
    with pytest.raises(ConfigError, match="0 found"):
        FencingToken.from_headers({"Token": "a=1"})
    with pytest.raises(ConfigError, match="2 found"):
        FencingToken.from_headers({"Fencing-Token": "a=1", "fencing-token": "a=1"})


def test_a_token_does_not_change() -> None:
    token = FencingToken("a", 1)
    with pytest.raises(FrozenInstanceError):
        token.value = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        token.extra = 2  # type: ignore[attr-defined]
