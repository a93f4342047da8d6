"""The table of expected tests and the judgement of a run: a judge that never condemns is worthless."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests import report
from tests.conftest import SECOND_TRY
from tests.expected import PLATFORM, Outcome, Result, complaints, load, render, save

EXPECTED = {("contract", "memory"): 2, ("contract", "sqlite"): 2}


def of(backend: str, *outcomes: Outcome, reason: str = "") -> list[Result]:
    return [Result(f"test_{at}[{backend}]", "contract", backend, out, reason) for at, out in enumerate(outcomes)]


WHOLE = of("memory", "passed", "passed") + of("sqlite", "passed", "failed")


def test_a_whole_run_has_no_complaint() -> None:
    assert complaints(WHOLE, EXPECTED, full_table=True, ci=True) == []


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        (of("memory", "passed", "passed"), "contract on sqlite: 2 tests expected, 0 found"),
        (WHOLE[:-1], "contract on sqlite: 2 tests expected, 1 found"),
        (WHOLE + of("redis", "passed"), "contract on redis: 0 tests expected, 1 found"),
    ],
)
def test_a_count_that_differs_is_a_complaint_of_a_full_run(results: list[Result], complaint: str) -> None:
    (found,) = complaints(results, EXPECTED, full_table=True, ci=False)
    assert found.startswith(complaint)
    assert complaints(results, EXPECTED, full_table=False, ci=True) == []


def test_a_missing_backend_is_a_complaint_under_ci() -> None:
    results = of("memory", "passed", "passed") + of("sqlite", "skipped", "passed", reason="no server")
    assert complaints(results, EXPECTED, full_table=True, ci=True) == ["test_0[sqlite] was skipped: no server"]
    assert complaints(results, EXPECTED, full_table=True, ci=False) == []


def test_what_the_platform_cannot_do_is_excused() -> None:
    results = of("memory", "passed", "passed") + of("sqlite", "excused", "passed")
    assert complaints(results, EXPECTED, full_table=True, ci=True) == []


def test_the_table_tells_expected_and_executed() -> None:
    lines = render(WHOLE + of("redis", "skipped", "xfailed"), EXPECTED).splitlines()
    assert [line.split() for line in lines] == [
        ["suite", "backend", "expected", "executed", "passed", "failed", "skipped"],
        ["contract", "memory", "2", "2", "2", "0", "0"],
        ["contract", "sqlite", "2", "2", "1", "1", "0"],
        ["contract", "redis", "0", "1", "0", "0", "1"],
    ]


def test_the_table_survives_its_file(tmp_path: Path) -> None:
    save(EXPECTED, tmp_path / "table.json")
    assert load(tmp_path / "table.json") == EXPECTED


JUNIT = f"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite>
  <testcase classname="tests.contract.test_it" name="test_a[memory]">
    <properties>
      <property name="suite" value="contract"/><property name="backend" value="memory"/>
    </properties>
  </testcase>
  <testcase classname="tests.unit.test_it" name="test_b"><failure message="no"/></testcase>
  <testcase classname="tests.unit.test_it" name="test_b"><error message="and its tear-down"/></testcase>
  <testcase classname="tests.unit.test_it" name="test_c"/>
  <testcase classname="tests.unit.test_it" name="test_c"><error message="a tear-down"/></testcase>
  <testcase classname="" name="tests.unit.test_broken"><error message="collection failure"/></testcase>
  <testcase classname="tests.unit.test_it" name="test_d">
    <skipped type="pytest.skip" message="{PLATFORM}no time namespaces"/>
  </testcase>
  <testcase classname="tests.unit.test_it" name="test_e">
    <skipped type="pytest.skip" message="no server"/>
  </testcase>
  <testcase classname="tests.unit.test_it" name="test_f">
    <skipped type="pytest.xfail" message="known"/>
  </testcase>
</testsuite></testsuites>
"""


def test_reports_of_several_runs_are_merged(tmp_path: Path) -> None:
    (tmp_path / "measured.xml").write_text(JUNIT, encoding="utf-8")
    (tmp_path / "unmeasured.xml").write_text(JUNIT.replace("test_it", "test_other"), encoding="utf-8")
    results = report.read(sorted(tmp_path.glob("*.xml")))
    assert [result.outcome for result in results] == 2 * [
        *("passed", "failed", "failed", "failed", "excused", "skipped", "xfailed"),
    ]
    assert (results[0].suite, results[0].backend) == ("contract", "memory")
    assert report.closing_line(results) == "2 passed, 6 failed"


@pytest.mark.parametrize(
    ("results", "failed_steps", "status"),
    [
        (of("memory", "passed", "passed") + of("sqlite", "passed", "passed"), [], 0),
        (of("memory", "passed", "passed") + of("sqlite", "passed", "passed"), ["lint"], 1),
        (WHOLE, [], 1),
        (WHOLE[:2], [], 1),
        ([], [], 1),
    ],
)
def test_the_verdict_and_the_last_line(
    results: list[Result],
    failed_steps: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "load", lambda: EXPECTED if results else {})
    assert report.judge(results, full_table=True, ci=False, failed_steps=failed_steps) == status
    assert capsys.readouterr().out.splitlines()[-1] == report.closing_line(results)


def test_who_passes_at_a_second_try_is_named_and_few_may(capsys: pytest.CaptureFixture[str]) -> None:
    again = [replace(result, again=True) for result in of("redis", *["passed"] * 5)]
    assert complaints(again[:4], {}, full_table=False, ci=True) == []
    assert complaints(again, {}, full_table=False, ci=True) == ["5 tests had to be tried once more, and 4 may"]
    report.tell_second_tries([*again[:1], *of("memory", "passed")])
    assert capsys.readouterr().out == "passed only at the second try: test_0[redis]\n"


def test_a_second_try_is_read_and_a_second_failure_is_a_failure(tmp_path: Path) -> None:
    again = '<properties><property name="again" value="yes"/></properties>'
    case = '<testcase classname="c" name="{name}">{inside}</testcase>'
    cases = [
        case.format(name="flaky", inside=""),  # the first try, which the file tells nothing of
        case.format(name="flaky", inside=again),
        case.format(name="broken", inside=""),
        case.format(name="broken", inside=again + '<failure message="x"/>'),
    ]
    file = tmp_path / "x.xml"
    file.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>", encoding="utf-8")
    found = {result.test: (result.outcome, result.again) for result in report.read([file])}
    assert found == {"c::flaky": ("passed", True), "c::broken": ("failed", True)}


def test_not_every_suite_has_second_tries(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("flaky") is None
    for suite in ("unit", "contract", "simulation", "chaos"):
        assert suite not in SECOND_TRY
