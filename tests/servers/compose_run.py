"""The command line of the compose servers.

    python -m tests.servers.compose up                     start them and wait until they are ready
    python -m tests.servers.compose wait                   wait until they are ready
    python -m tests.servers.compose down                   take them down, with their data
    python -m tests.servers.compose test [--where-possible] [PYTEST_ARGUMENT …]
        a project of its own for as long as the tests that can run on it take; the last line is
        `compose: N passed`, with `, M failed` if any did, or `compose: not run: REASON`

`--where-possible` is for continuous integration: a dockerd is started where none runs and that is allowed, and a
machine that can have none is no failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

from tests import report
from tests.expected import complaints
from tests.servers.cluster import NotReady
from tests.servers.compose import (
    SINGLE_VOTER,
    ComposeEtcd,
    ComposeMariaDB,
    ComposePostgreSQL,
    ComposeRedis,
    ComposeZooKeeper,
)
from tests.servers.compose_engine import Engine, EngineFailed, NoEngine, engine, running_engine
from tests.servers.compose_project import (
    PROJECT_VARIABLE,
    STANDING_PROJECT,
    Project,
    brought_up,
    free_network,
    free_ports,
    name_of_test_project,
    settled_images,
)
from tests.servers.compose_selection import BACKENDS
from tests.servers.fetch import Missing

ROOT = Path(__file__).parent.parent.parent
REPORT = report.REPORTS / "compose.xml"
SUITES = ("tests/contract", "tests/integration")
READY_SECONDS = 60.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.compose")
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("up", "wait", "down"):
        steps.add_parser(step)
    testing = steps.add_parser("test", allow_abbrev=False)
    testing.add_argument("--where-possible", action="store_true", help="no engine is no failure; one may be started")
    asked, pytest_arguments = parser.parse_known_args(arguments)
    if pytest_arguments and asked.step != "test":
        parser.error(f"unknown: {' '.join(pytest_arguments)}")
    signal.signal(signal.SIGTERM, _leave)
    if asked.step == "test":
        return _test(pytest_arguments, where_possible=asked.where_possible)
    try:
        _standing(asked.step)
    except (NoEngine, EngineFailed, Missing, NotReady, LookupError) as failed:
        print(f"compose: {asked.step} failed: {failed}", file=sys.stderr)
        return 1
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    """Whoever ends the run with a signal wants the containers gone too."""
    sys.exit(128 + number)


def _standing(step: str) -> None:
    """The steps of the project that stands until it is taken down."""
    project = Project(running_engine(), os.environ.get(PROJECT_VARIABLE, STANDING_PROJECT))
    if step == "down":
        project.down()
        return
    if step == "up":
        project.up(settled_images(project.engine))
    print(f"compose: {_ready(project)} are ready")


def _ready(project: Project) -> str:
    redis, single = ComposeRedis(project), ComposeRedis(project, SINGLE_VOTER)
    with closing(redis), closing(single):
        clusters = (ComposeEtcd(project), ComposeZooKeeper(project), redis, single)
        databases = (ComposePostgreSQL(project), ComposeMariaDB(project))
        for cluster in (*clusters, *databases):
            cluster.ready(READY_SECONDS)
        return ", ".join(which.url() for which in (*clusters, *databases))


def _test(pytest_arguments: Sequence[str], *, where_possible: bool) -> int:
    try:
        with engine(may_start=where_possible) as found:
            return _tested_on(found, pytest_arguments)
    except NoEngine as lacking:
        print(f"compose: not run: {lacking}", flush=True)
        return 0 if where_possible else 1
    except (EngineFailed, Missing, NotReady) as failed:
        print(f"compose: not run: {failed}", flush=True)
        return 1


def _tested_on(found: Engine, pytest_arguments: Sequence[str]) -> int:
    variables = settled_images(found) | free_ports() | free_network()
    name = name_of_test_project()
    with brought_up(found, name, variables) as project:
        print(f"compose: {_ready(project)} are ready", flush=True)
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.unlink(missing_ok=True)
        named = any(Path(ROOT, argument.partition("::")[0]).exists() for argument in pytest_arguments)
        status = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "tests.servers.compose_selection"),
                *(f"--junit-xml={REPORT}", *pytest_arguments, *(() if named else SUITES)),
                *("-n", str(len(BACKENDS))),
            ],
            cwd=ROOT,
            env=os.environ
            | found.environment
            | variables
            | {"COORDKIT_TEST_CLUSTERS": "compose", PROJECT_VARIABLE: name},
            check=False,
        ).returncode
    return _judge(status)


def _judge(status: int) -> int:
    """Say how many passed; 1 if a test failed, none ran, or one was skipped for want of something."""
    results = report.read([REPORT]) if REPORT.exists() else []
    passed, failed = (sum(result.outcome == outcome for result in results) for outcome in ("passed", "failed"))
    wrong = complaints(results, {}, full_table=False, ci=os.environ.get("CI") == "true")
    report.tell_second_tries(results)
    for line in wrong:
        print(f"compose: wrong: {line}")
    print(f"compose: {passed} passed" + (f", {failed} failed" if failed else ""), flush=True)
    return 1 if status or wrong or not passed else 0
