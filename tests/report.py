"""The last step of a test run: merge the reports of its pytest runs, print the table, judge.

    python -m tests.report clear                                 before the first pytest run
    python -m tests.report judge [--full-table] [FAILED_STEP …]  exit 1 unless all is well
    python -m tests.report closing-line                          `N passed, N failed` once more, alone

The reports are JUnit files in .cache/reports, one for each pytest run; conftest.py puts suite and backend of
each test into them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from tests.expected import PLATFORM, Outcome, Result, complaints, load, render

REPORTS = Path(__file__).parent.parent / ".cache" / "reports"


def read(reports: Iterable[Path]) -> list[Result]:
    """All results of some JUnit files. A test that failed in its body and in its tear-down is one failure."""
    results: dict[tuple[Path, str], Result] = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            result = _result(case)
            earlier = results.get((report, result.test))
            if earlier is None or earlier.outcome != "failed":
                results[report, result.test] = result
    return list(results.values())


def closing_line(results: Iterable[Result]) -> str:
    """`N passed, N failed`; an error of a fixture or of the collection is a failure."""
    outcomes = [result.outcome for result in results]
    return f"{outcomes.count('passed')} passed, {outcomes.count('failed')} failed"


def judge(results: list[Result], *, full_table: bool, ci: bool, failed_steps: Iterable[str] = ()) -> int:
    """Print the table, what is wrong, and the closing line. The exit code: 1 if anything is wrong."""
    expected = load()
    wrong = [f"make {step} failed" for step in failed_steps]
    wrong += [f"{result.test} failed" for result in results if result.outcome == "failed"]
    wrong += complaints(results, expected, full_table=full_table, ci=ci)
    if not results:
        wrong.append("no test ran")
    print(f"\nexpected and executed tests per backend\n\n{render(results, expected)}\n")
    tell_second_tries(results)
    for line in wrong:
        print(f"wrong: {line}")
    print(closing_line(results))
    return 1 if wrong else 0


def tell_second_tries(results: Iterable[Result]) -> None:
    """Name the tests that failed at first: each is a question that nobody has answered yet."""
    for result in results:
        if result.again and result.outcome != "failed":
            print(f"passed only at the second try: {result.test}")


def _result(case: ElementTree.Element) -> Result:
    properties = {entry.get("name"): entry.get("value", "") for entry in case.iter("property")}
    outcome, reason = _outcome(case)
    return Result(
        test=f"{case.get('classname')}::{case.get('name')}",
        suite=properties.get("suite", ""),
        backend=properties.get("backend", ""),
        outcome=outcome,
        reason=reason,
        again="again" in properties,
    )


def _outcome(case: ElementTree.Element) -> tuple[Outcome, str]:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed", ""
    skipped = case.find("skipped")
    if skipped is None:
        return "passed", ""
    reason = skipped.get("message", "")
    if skipped.get("type") == "pytest.xfail":
        return "xfailed", reason
    return ("excused" if reason.startswith(PLATFORM) else "skipped"), reason


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.report")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("clear", help="forget the reports of earlier runs")
    steps.add_parser("closing-line", help="print the counts alone")
    judging = steps.add_parser("judge", help="print the table and judge the run")
    judging.add_argument("--full-table", action="store_true", help="everything was selected: compare counts")
    judging.add_argument("failed_steps", nargs="*", metavar="FAILED_STEP")
    asked = parser.parse_args(arguments)

    reports = sorted(REPORTS.glob("*.xml"))
    if asked.step == "clear":
        for report in reports:
            report.unlink()
        return 0
    if asked.step == "closing-line":
        print(closing_line(read(reports)))
        return 0
    ci = os.environ.get("CI") == "true"
    return judge(read(reports), full_table=asked.full_table, ci=ci, failed_steps=asked.failed_steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
