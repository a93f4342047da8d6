"""The frame of an examination: each check has its own fate, a finding says what it means, options are refused early."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from coordkit import registry
from coordkit.backends import memory, memory_doctor
from coordkit.backends.contract import Host
from coordkit.doctor import Diagnosis, diagnose, examine, made, mend, refuse_repairs
from coordkit.engine import current
from coordkit.errors import (
    BackendError,
    ConfigError,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from coordkit.findings import (
    Check,
    Finding,
    Progress,
    Question,
    Step,
    Verdict,
    count,
    failed,
    of_error,
    ok,
    opening,
    some,
    spare,
    unchecked,
    warning,
)
from coordkit.registry import Scheme

SECONDS = 20.0  # that nobody waits for
FINDINGS = [
    ok("a", "seen", "good"),
    warning("b", "seen", "dear", "mend it"),
    failed("c", "seen", "bad", "mend it"),
    unchecked("d", "not seen"),
]


def run(checks: Sequence[Check], seconds: float = SECONDS) -> list[Finding]:
    """Make these checks on the engine."""
    engine = current()
    return engine.ask(lambda: made(checks, engine, seconds))


def check(name: str, *outcome: Finding | BaseException, needs: str = "") -> Check:
    """One that finds these, or raises the first."""

    async def look(_: float) -> Sequence[Finding]:
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return [each for each in outcome if isinstance(each, Finding)]

    return Check(name, look, needs)


# -- findings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_pickles_and_is_frozen(finding: Finding) -> None:
    assert pickle.loads(pickle.dumps(finding)) == finding
    with pytest.raises(AttributeError):
        finding.detail = "other"  # type: ignore[misc]


@pytest.mark.parametrize("verdict", [Verdict.WARNING, Verdict.FAILED])
@pytest.mark.parametrize(("meaning", "remedy"), [("", "mend it"), ("bad", "")])
def test_what_is_not_good_says_what_it_means_and_what_mends_it(verdict: Verdict, meaning: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="a meaning and a remedy"):
        Finding("x", verdict, "seen", meaning, remedy)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Unavailable("no server answers"), "nobody is elected"),
        (OutcomeUnknown("no answer"), "nobody is elected"),
        (Rejected("a wrong password"), "refused"),
        (Misconfigured("two clusters"), "refuses to elect"),
    ],
)
def test_an_error_is_a_failure_that_says_what_it_means(error: BackendError, says: str) -> None:
    found = of_error("x", error)
    assert (found.check, found.verdict, found.detail) == ("x", Verdict.FAILED, str(error))
    assert says in found.meaning


def test_numbers_and_names_are_told_in_words() -> None:
    assert (count(1, "key"), count(2, "key"), count(0, "child", "children")) == ("1 key", "2 keys", "0 children")
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some(["a"], 2) == "a"
    assert spare(0) == spare(-1) == "if one more fails, nobody leads"
    assert spare(2) == "2 more may fail; then nobody leads"


# -- checks -----------------------------------------------------------------------------------------------------


def test_checks_are_made_in_their_order_and_all_that_they_find_is_told() -> None:
    assert run([check("a", FINDINGS[0], FINDINGS[1]), check("b", FINDINGS[2])]) == FINDINGS[:3]
    assert run([]) == []


@pytest.mark.parametrize(
    ("error", "verdict", "says"),
    [
        (Rejected("no right"), Verdict.UNCHECKED, "this user may not ask for it: no right"),
        (Unavailable("down"), Verdict.FAILED, "down"),
        (OutcomeUnknown("late"), Verdict.FAILED, "late"),
        (Misconfigured("odd"), Verdict.FAILED, "odd"),
        (ZeroDivisionError("of ours"), Verdict.FAILED, "the check itself is broken: ZeroDivisionError"),
    ],
)
def test_what_a_check_raises_is_a_finding_and_hides_no_other(error: Exception, verdict: Verdict, says: str) -> None:
    first, second = run([check("first", error), check("second", FINDINGS[0])])
    assert (first.check, first.verdict, first.detail) == ("first", verdict, says)
    assert second == FINDINGS[0]


def test_a_check_that_hangs_ends_in_its_time_and_hides_no_other() -> None:
    ended: list[str] = []

    async def hang(_: float) -> Sequence[Finding]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return []

    first, second = run([Check("slow", hang), check("second", FINDINGS[0])], seconds=0.05)
    assert (first.verdict, first.detail) == (Verdict.FAILED, "no answer to slow within 0.05 s")
    assert ended == ["cancelled"]
    assert second == FINDINGS[0]


def test_a_check_whose_need_has_failed_is_not_made_nor_one_that_needs_it() -> None:
    looked: list[str] = []

    def looking(name: str, needs: str) -> Check:
        async def look(_: float) -> Sequence[Finding]:
            looked.append(name)
            return [ok(name, "seen")]

        return Check(name, look, needs)

    checks = [check("door", FINDINGS[2]), looking("room", "door"), looking("shelf", "room"), looking("garden", "")]
    found = run(checks)
    assert looked == ["garden"]
    assert [(each.check, each.verdict) for each in found[1:]] == [
        ("room", Verdict.UNCHECKED),
        ("shelf", Verdict.UNCHECKED),
        ("garden", Verdict.OK),
    ]
    assert found[1].detail == "not looked at, for want of the door"


def test_a_check_is_made_although_its_need_was_not_all_well() -> None:
    checks = [check("door", FINDINGS[1], FINDINGS[3]), check("room", FINDINGS[0], needs="door")]
    assert run(checks)[-1] == FINDINGS[0]


@pytest.mark.parametrize("error", [Rejected("a wrong password"), Unavailable("down"), Misconfigured("odd")])
def test_a_backend_that_cannot_be_opened_is_a_failure_even_where_it_is_a_refusal(error: BackendError) -> None:
    async def refuse() -> None:
        raise error

    (found,) = run([opening(refuse)])
    assert (found.check, found.verdict, found.detail) == ("connection", Verdict.FAILED, str(error))


# -- the whole of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("findings", "well"), [(FINDINGS, False), (FINDINGS[:2] + FINDINGS[3:], True), ([], True)])
def test_a_diagnosis_is_well_if_nothing_has_failed(findings: list[Finding], well: bool) -> None:
    found = Diagnosis("memory://x", memory.guarantees(registry.parse("memory://x")), tuple(findings))
    assert found.ok is well
    assert pickle.loads(pickle.dumps(found)) == found
    shown = json.loads(json.dumps(found.as_json()))
    assert (shown["url"], shown["backend"], shown["ok"]) == ("memory://x", "memory", well)
    assert set(shown["guarantees"]) == {"backend", "token", "fifo", "survives", "not_covered"}
    assert [each["verdict"] for each in shown["findings"]] == [each.verdict.value for each in findings]
    assert all(set(each) == {"check", "verdict", "detail", "meaning", "remedy"} for each in shown["findings"])


def test_memory_is_well_and_for_one_process() -> None:
    found = examine("memory://doctor")
    assert [(each.check, each.verdict) for each in found.findings] == [
        ("connection", Verdict.OK),
        ("scope", Verdict.WARNING),
    ]
    assert found.ok


@pytest.mark.parametrize(
    ("url", "options"),
    [("nope://x", {}), ("memory://", {}), ("memory://x", {"timeout": 0.0}), ("memory://x", {"ttl": -1.0})],
)
def test_a_mistake_is_told_before_anything_is_done(url: str, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        examine(url, **options)


@pytest.mark.parametrize(
    "url", ["memory://x", "sqlite:///nowhere/x.db", "etcd://127.0.0.1:1", "zookeeper://127.0.0.1:1"]
)
@pytest.mark.parametrize("option", ["--init", "--replace", "--forget"])
def test_what_there_is_not_to_mend_is_refused(url: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"needs no {option}"):
        refuse_repairs(url, [option])
    refuse_repairs(url, [])


# -- repairs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mending(other: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A backend of others, of which one thing can be mended; what happens to it."""
    happened: list[str] = []

    async def steps(value: str) -> AsyncGenerator[Step]:
        try:
            yield Progress("looking")
            yield Question("is it so")
            happened.append(f"mended {value}")
            if value == "down":
                raise Unavailable("down")
            yield ok("init", value)
        finally:
            happened.append("over")

    def repair(backend: Any, address: registry.Address, option: str, value: str) -> AsyncGenerator[Step]:
        if value == "odd":
            raise ConfigError("odd")
        return steps(value)

    async def closing() -> None:
        happened.append("closed")

    other.REPAIRS, other.repair, other.closing = ("--init",), repair, closing
    monkeypatch.setitem(registry._schemes, "other", Scheme("other_backend", doctor="other_backend"))
    return happened


def test_a_repair_is_made_step_by_step(mending: list[str]) -> None:
    assert list(mend("other://x", "--init", "it")) == [Progress("looking"), Question("is it so"), ok("init", "it")]
    assert mending == ["mended it", "over", "closed"]


def test_a_repair_that_is_not_asked_on_does_nothing_and_is_closed(mending: list[str]) -> None:
    steps = mend("other://x", "--init")
    assert [next(steps), next(steps)] == [Progress("looking"), Question("is it so")]
    steps.close()
    assert mending == ["over", "closed"]


def test_what_a_repair_runs_into_is_a_finding(mending: list[str]) -> None:
    *_, found = mend("other://x", "--init", "down")
    assert isinstance(found, Finding)
    assert (found.check, found.verdict, found.detail) == ("init", Verdict.FAILED, "down")
    assert mending == ["mended down", "over", "closed"]


def test_a_value_that_cannot_be_is_refused_before_the_first_step(mending: list[str]) -> None:
    with pytest.raises(ConfigError, match="odd"):
        next(mend("other://x", "--init", "odd"))
    assert mending == ["closed"]


# -- schemes of others ------------------------------------------------------------------------------------------

Opened = Callable[[], Awaitable[None]]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that serves a scheme of its own; `opening` and `closing` may be replaced."""
    module: Any = types.ModuleType("other_backend")
    module.check = lambda address: None
    module.guarantees = memory.guarantees

    async def nothing() -> None:
        return

    module.opening = module.closing = nothing

    def connect(address: registry.Address, host: Host) -> Any:
        backend = memory.connect(registry.parse("memory://other"), host)
        backend.open, backend.close = module.opening, module.closing  # type: ignore[method-assign]
        return backend

    module.connect = connect
    monkeypatch.setitem(sys.modules, "other_backend", module)
    monkeypatch.setitem(registry._schemes, "other", Scheme("other_backend"))
    return module


def test_where_there_are_no_checks_opening_is_the_only_one_and_that_is_said(other: types.ModuleType) -> None:
    opened, unknown = examine("other://x").findings
    assert (opened.check, opened.verdict) == ("connection", Verdict.OK)
    assert unknown.verdict is Verdict.WARNING
    assert "knows no checks for other://" in unknown.detail
    with pytest.raises(ConfigError, match="other:// needs no --init"):
        refuse_repairs("other://x", ["--init"])


def test_it_is_closed_whatever_was_found(other: Any) -> None:
    closed: list[str] = []

    async def refuse() -> None:
        raise Unavailable("down")

    async def close() -> None:
        closed.append("closed")
        raise Unavailable("and it stays down")

    other.opening, other.closing = refuse, close
    found = examine("other://x")
    assert not found.ok
    assert closed == ["closed"]


def test_checks_of_others_are_made(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other.checks = lambda backend, address, ttl: [check("theirs", ok("theirs", f"{address.shown} {ttl:g}"))]
    monkeypatch.setitem(registry._schemes, "other", Scheme("other_backend", doctor="other_backend"))
    (found,) = examine("other://x", ttl=3.0).findings
    assert found == ok("theirs", "other://x 3")
    other.REPAIRS = ("--init",)
    refuse_repairs("other://x", ["--init"])


def test_checks_that_cannot_be_loaded_are_a_mistake_of_the_url(
    other: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._schemes, "other", Scheme("other_backend", doctor="no_such_module"))
    with pytest.raises(ConfigError, match="the checks of other:// cannot be loaded"):
        examine("other://x")


def test_schemes_of_ours_have_checks() -> None:
    for url in ("etcd://x", "etcds://x", "memory://x", "redis://x", "sqlite:///x", "zookeeper://x", "zookeepers://x"):
        assert callable(registry.doctor(registry.parse(url)).checks)
    assert registry.doctor(registry.parse("memory://x")) is memory_doctor


def test_it_runs_on_any_host() -> None:
    engine = current()
    address = registry.parse("memory://doctor")
    found = engine.ask(lambda: diagnose(engine, address, 10.0, SECONDS))
    assert found.url == "memory://doctor"
