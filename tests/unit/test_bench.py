"""The parts of the benchmark that compute, on numbers known beforehand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import bench


def test_a_quantile_is_a_sample_that_so_many_do_not_exceed() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert bench.quantile(samples, 0.99) == 99.0
    assert bench.quantile(samples, 0.5) == 50.0
    assert bench.quantile(samples, 1.0) == 100.0
    assert bench.quantile([7.0], 0.99) == 7.0


def test_a_summary_is_in_microseconds() -> None:
    assert bench.summary([0.001, 0.002, 0.009]) == {"median_us": 2000.0, "p99_us": 9000.0, "samples": 3}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for thread, count in ((11, 5), (12, 700)):
        (tmp_path / str(thread)).mkdir()
        status = f"Name:\tx\nVmRSS:\t  123 kB\nvoluntary_ctxt_switches:\t{count}\nnonvoluntary_ctxt_switches:\t9\n"
        (tmp_path / str(thread) / "status").write_text(status)
    (tmp_path / "13").mkdir()  # has ended meanwhile
    return tmp_path


def test_switches_are_read_per_thread(tasks: Path) -> None:
    assert bench.switches(tasks) == {11: 5, 12: 700}
    assert bench.field(tasks / "11" / "status", "VmRSS") == 123
    with pytest.raises(KeyError):
        bench.field(tasks / "11" / "status", "VmSwap")


def test_the_main_thread_of_this_process_is_among_those_read() -> None:
    assert bench.switches()[os.getpid()] >= 0


def test_rates_are_of_the_threads_that_lived_all_the_while() -> None:
    assert bench.rates({1: 10, 2: 10, 3: 0}, {1: 20, 2: 10, 4: 99}, 5.0) == {1: 2.0, 2: 0.0}


def test_a_call_that_does_more_takes_longer() -> None:
    short = bench.per_call_ns(lambda: None, 500, rounds=3)
    assert bench.per_call_ns(lambda: sum(range(1000)), 500, rounds=3) > short >= 0.0


def test_the_facts_of_the_machine_are_there_and_are_json() -> None:
    facts = bench.machine()
    assert {"cpus", "python", "sqlite", "kernel"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts


def test_every_number_is_shown() -> None:
    text = bench.render(
        {
            "machine": {"cpus": 2},
            "times": {"acquire": {"median_us": 12.5, "p99_us": 99.9, "samples": 3}},
            "ratios": {"handover / bare": 4.25},
            "calls_ns": {"term.ensure()": 321},
            "many": {"sync": {"threads": 3, "only here": 1.5}, "async": {"threads": 4}},
        }
    )
    for shown in ("cpus 2", "12.5 us", "99.9 us", "4.25 x", "321 ns", "only here", "1.5"):
        assert shown in text
    (threads,) = [line for line in text.splitlines() if line.startswith("threads")]
    assert threads.split() == ["threads", "3", "4"]
    (missing,) = [line for line in text.splitlines() if line.startswith("only here")]
    assert missing.split()[-1] == "-"


def test_its_word_to_the_user_explains_the_two_switches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        bench.main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "--json" in told
    assert "--quick" in told
    assert "--peer" not in told
