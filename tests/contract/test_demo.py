"""`coordkit demo` on a real backend: the whole failure path is seen, and nothing is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ORDER = (
    r"(\w+) +started, process \d+",
    r"(?P<first>\w+) +leads with token (?P<t1>\d+), which the ledger's fence has seen",
    r"(?P=first) +writes row 1: accepted",
    r"(?P=first) +killed \(kill -9\)",
    r"(?P<second>\w+) +leads with token (?P<t2>\d+),",
    r"(?P=second) +writes row \d+: accepted",
    r"(?P=second) +stopped \(SIGSTOP\)",
    r"(?P<third>\w+) +leads with token (?P<t3>\d+),",
    r"(?P=third) +writes row \d+: accepted",
    r"(?P=second) +resumed \(SIGCONT\) after (?P<paused>[\d.]+) s",
    r"(?P=second) +knows by its own clock that its term is over: lost, expired",
    r"(?P=second) +writes all the same, with token (?P=t2)",
    r"ledger +refuses it: StaleToken, (?P=t3) was seen already",
    r"all of it was seen",
    r"leaders +(?P=first) (?P=t1), then (?P=second) (?P=t2), then (?P=third) (?P=t3): tokens rise",
    r"kill -9 +(?P<kill>[\d.]+) s until the next leader",
    r"SIGSTOP +(?P<stop>[\d.]+) s until the next leader",
    r"ledger +\d+ writes accepted, 1 refused \((?P=second) with token (?P=t2)\)",
    r"journal +3 terms, no two overlap",
)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_the_whole_failure_path_is_seen(backend: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import sys; from coordkit.cli import main; sys.exit(main())", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert "\x1b" not in run.stdout, "colours, and this is no terminal"
    told = re.search(".*".join(ORDER), run.stdout, re.DOTALL)
    assert told, run.stdout
    assert len({told["first"], told["second"], told["third"]}) == 3
    assert int(told["t1"]) < int(told["t2"]) < int(told["t3"])
    assert float(told["paused"]) >= 2.0, "not stopped past its ttl"
    assert 0 < float(told["stop"]) <= float(told["paused"])
    moments = [float(moment) for moment in re.findall(r"^ *([\d.]+) s  ", run.stdout, re.MULTILINE)]
    assert moments == sorted(moments)
    pids = [int(pid) for pid in re.findall(r"process (\d+)", run.stdout)]
    assert len(pids) == 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(tmp_path.iterdir()), "the temporary directory is still there"
