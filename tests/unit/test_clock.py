"""The clocks, without waiting for one: what they read, what they fall back to, and what they say of the host.

The rule: only the drift of this machine's own clocks decides a deadline; a namespace or a platform that hides one
changes what is covered, never what is safe.
"""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

import pytest

from coordkit import clock
from coordkit.clock import (
    PortableClock,
    SystemClock,
    boot_id,
    boottime_offset,
    host_boottime,
    new_candidate_id,
    system_chance,
    system_clock,
)
from coordkit.lease import Instant

PID = os.getpid()


def test_an_instant_is_the_three_clocks_that_deadlines_rest_on(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = {7: 70.0, 4: 40.0, 1: 10.0}
    assert SystemClock().now(readings.__getitem__, 7, 4, 1) == Instant(boot=70.0, raw=40.0, mono=10.0)


@pytest.mark.skipif(not clock.LINUX, reason="platform: these clocks are Linux's")
def test_on_linux_the_clocks_are_the_kernels() -> None:
    def between(low: float, value: float, high: float) -> bool:
        return low <= value <= high

    names = (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.CLOCK_MONOTONIC)
    before = [time.clock_gettime(name) for name in names]
    now = SystemClock().now()
    after = [time.clock_gettime(name) for name in names]
    assert all(between(*three) for three in zip(before, now, after, strict=True))
    assert system_clock().covers_suspend


def test_elsewhere_one_clock_stands_for_all_and_a_suspend_is_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "LINUX", False)
    portable = system_clock()
    assert isinstance(portable, PortableClock)
    assert not portable.covers_suspend
    before = time.monotonic()
    boot, raw, mono = portable.now()
    assert boot == raw == mono
    assert before <= mono <= time.monotonic()
    before = time.monotonic()
    assert before <= host_boottime() <= time.monotonic()


@pytest.mark.parametrize("kind", [SystemClock, PortableClock])
def test_wall_time_is_the_machines(kind: type[SystemClock | PortableClock], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.time, "time", lambda: 1234.5)
    assert kind().wall() == 1234.5


# -- the host behind a time namespace --------------------------------------------------------------------


def test_the_offset_of_a_time_namespace_is_read_from_its_file(tmp_path: Path) -> None:
    offsets = tmp_path / "timens_offsets"
    offsets.write_text("monotonic      86400         0\nboottime      604800 500000000\n")
    assert boottime_offset(PID, str(offsets)) == 604800.5


def test_a_negative_offset_is_whole_seconds_below_and_nanoseconds_above(tmp_path: Path) -> None:
    offsets = tmp_path / "timens_offsets"
    offsets.write_text("monotonic           0         0\nboottime          -10 250000000\n")
    assert boottime_offset(PID, str(offsets)) == -9.75


def test_a_kernel_without_time_namespaces_has_no_offset(tmp_path: Path) -> None:
    assert boottime_offset(PID, str(tmp_path / "absent")) == 0.0
    (tmp_path / "other").write_text("monotonic 5 0\n")
    assert boottime_offset(PID, str(tmp_path / "other")) == 0.0


def test_a_child_reads_the_offset_anew_because_it_may_start_in_another_namespace(tmp_path: Path) -> None:
    offsets = tmp_path / "timens_offsets"
    offsets.write_text("boottime 1 0\n")
    assert boottime_offset(PID, str(offsets)) == 1.0
    offsets.write_text("boottime 2 0\n")
    assert boottime_offset(PID, str(offsets)) == 1.0
    assert boottime_offset(PID + 1, str(offsets)) == 2.0


@pytest.mark.skipif(not clock.LINUX, reason="platform: time namespaces are Linux's")
def test_the_boottime_of_the_host_is_without_the_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "boottime_offset", lambda pid: 1000.0 if pid == PID else 0.0)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = host_boottime()
    assert before - 1000.0 <= seen <= time.clock_gettime(time.CLOCK_BOOTTIME) - 1000.0


def test_the_boot_has_an_identity_where_the_kernel_tells(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    assert boot_id(str(file)) is None
    file.write_text("\n")
    assert boot_id(str(file)) is None
    file.write_text("6b3f6a3e-0000-4000-8000-000000000000\n")
    assert boot_id(str(file)) == "6b3f6a3e-0000-4000-8000-000000000000"


# -- chance ----------------------------------------------------------------------------------------------


def test_a_candidates_id_is_made_of_label_host_pid_and_chance() -> None:
    assert new_candidate_id("web", random.Random(1)) == (
        f"web@{socket.gethostname()}:{PID}:{random.Random(1).getrandbits(64):016x}"
    )
    assert new_candidate_id("", random.Random(1)).startswith("candidate@")


def test_ids_of_one_process_differ_though_their_labels_are_equal() -> None:
    chance = system_chance()
    assert len({new_candidate_id("web", chance) for _ in range(1000)}) == 1000


def test_chance_is_the_operating_systems_so_that_a_child_does_not_repeat_its_parent() -> None:
    assert isinstance(system_chance(), random.SystemRandom)
