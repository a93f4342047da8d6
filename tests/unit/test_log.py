"""The engine logs through a queue: a handler that blocks, blocks nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from coordkit import threads
from coordkit.log import QueuedLog, logger


class Handler(logging.Handler):
    """Notes what it is given, on which thread; blocks while its gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.records: SimpleQueue[tuple[str, str, int]] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def emit(self, record: logging.LogRecord) -> None:
        assert self.gate.wait(timeout=30)
        self.records.put((record.levelname, record.getMessage(), threading.get_ident()))


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield handler
    handler.gate.set()
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_records_come_in_order_with_their_levels_on_a_thread_of_their_own(handler: Handler) -> None:
    log = QueuedLog()
    log.info("one %s", 1)
    log.warning("two %s %s", 2, "b")
    log.error("three")
    found = [handler.records.get(timeout=10) for _ in range(3)]
    assert [each[:2] for each in found] == [("INFO", "one 1"), ("WARNING", "two 2 b"), ("ERROR", "three")]
    assert {each[2] for each in found} != {threading.get_ident()}
    assert len({each[2] for each in found}) == 1


def test_the_logger_is_the_one_named_after_the_package() -> None:
    assert logger.name == "coordkit"


def test_putting_a_record_does_not_wait_for_a_handler(handler: Handler) -> None:
    log = QueuedLog()
    handler.gate.clear()
    for number in range(100):
        log.info("record %s", number)
    assert handler.records.empty()
    handler.gate.set()
    assert [handler.records.get(timeout=10)[1] for _ in range(100)] == [f"record {number}" for number in range(100)]


def test_flush_returns_when_all_that_was_put_is_handled(handler: Handler) -> None:
    log = QueuedLog()
    log.warning("before")
    log.flush(30)
    assert handler.records.get_nowait()[1] == "before"


def test_flush_gives_up_in_time(handler: Handler) -> None:
    log = QueuedLog()
    handler.gate.clear()
    log.warning("stuck")
    log.flush(0.01)
    assert handler.records.empty()


def test_an_unused_log_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(threads, "start", started.append)
    log = QueuedLog()
    log.flush(30)
    assert started == []
    log.info("first")
    log.info("second")
    assert len(started) == 1


def test_many_first_loggers_start_one_thread(handler: Handler) -> None:
    log = QueuedLog()
    gate = threading.Barrier(8)

    def first() -> None:
        gate.wait(timeout=30)
        log.info("hello")

    racers = [threading.Thread(target=first) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    log.flush(30)
    assert len({handler.records.get(timeout=10)[2] for _ in range(8)}) == 1
