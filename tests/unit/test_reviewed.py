"""What a hostile reading found in parts that need no store: the log, the journal, and calls that give themselves up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from coordkit import ConfigError, OutcomeUnknown, threads
from coordkit.journal import FileJournal, NoJournal, journal_from_environment
from coordkit.log import QueuedLog, logger
from coordkit.waiting import bounded, uncancelled

LONG = 30.0
Start = Callable[[Callable[[], object]], None]


class Noted(logging.Handler):
    """Notes text and thread of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.getMessage(), threading.get_ident()))

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.seen]


@pytest.fixture
def noted() -> Iterator[Noted]:
    handler = Noted()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


# -- the log ---------------------------------------------------------------------------------------------


def no_thread(run: Callable[[], object]) -> None:
    """As `threads.start` while the interpreter exits, from Python 3.12 on."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_where_no_thread_can_be_started_flush_handles_the_records(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "start", no_thread)
    log = QueuedLog()
    log.warning("one %s", 1)
    log.error("two")
    assert noted.seen == []  # not on the thread that logs
    log.flush(LONG)
    assert noted.seen == [("one 1", threading.get_ident()), ("two", threading.get_ident())]
    log.flush(LONG)
    assert len(noted.seen) == 2


def test_the_next_record_tries_again_to_start_the_thread(noted: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    log = QueuedLog()
    with monkeypatch.context() as patch:
        patch.setattr(threads, "start", no_thread)
        log.warning("kept")
    log.warning("next")
    log.flush(LONG)
    assert noted.texts == ["kept", "next"]
    assert threading.get_ident() not in {thread for _, thread in noted.seen}


@pytest.mark.parametrize("started", [True, False])
def test_a_filter_that_raises_costs_its_record_alone(
    noted: Noted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], started: bool
) -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage() == "first":
                raise ZeroDivisionError("filter bug")
            return True

    broken = Broken()
    logger.addFilter(broken)
    try:
        if not started:
            monkeypatch.setattr(threads, "start", no_thread)
        log = QueuedLog()
        for text in ("first", "second", "third"):
            log.warning(text)
        log.flush(LONG if started else 0.0)
    finally:
        logger.removeFilter(broken)
    assert noted.texts == ["second", "third"]
    assert "ZeroDivisionError: filter bug" in capfd.readouterr().err


# -- the journal -----------------------------------------------------------------------------------------


def test_a_line_that_cannot_be_written_is_complained_of() -> None:
    complaints: list[str] = []
    journal = FileJournal("/dev/full", complaints.append)
    journal.write("won", entry="x")
    journal.write("lost", entry="x", at=1.0)
    assert len(complaints) == 2
    assert all("the journal misses a line" in said and "No space left" in said for said in complaints)


def test_half_a_line_is_complained_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    journal = FileJournal(str(tmp_path / "journal"), complaints.append)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", lambda file, line: len(line) - 1)
        journal.write("won", entry="x")
    assert complaints == ["the journal has half a line: no space is left"]
    journal.write("lost", entry="x")
    assert len(complaints) == 1


@pytest.mark.parametrize("place", ["missing/journal", "."])
def test_a_journal_that_cannot_be_opened_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("COORDKIT_JOURNAL", str(tmp_path / place))
    with pytest.raises(ConfigError, match="COORDKIT_JOURNAL: ") as told:
        journal_from_environment()
    assert isinstance(told.value.__cause__, OSError)


def test_no_path_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDKIT_JOURNAL", "")
    assert isinstance(journal_from_environment(), NoJournal)


# -- calls that give themselves up -----------------------------------------------------------------------


async def gives_up() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("call", [lambda: bounded(gives_up(), LONG, "renew"), lambda: uncancelled(gives_up(), "renew")])
def test_a_call_that_its_own_client_cancels_has_an_unknown_outcome(call: Callable[[], object]) -> None:
    async def main() -> None:
        with pytest.raises(OutcomeUnknown, match="the client gave up renew") as told:
            await call()  # type: ignore[misc]
        assert isinstance(told.value.__cause__, asyncio.CancelledError)
        assert told.value.operation == "renew"

    asyncio.run(main())


def test_a_call_whose_task_is_cancelled_is_cancelled() -> None:
    async def main() -> None:
        begun = asyncio.Event()
        ended: SimpleQueue[type[BaseException]] = SimpleQueue()

        async def hangs() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except BaseException as error:
                ended.put(type(error))
                raise

        task = asyncio.create_task(bounded(hangs(), LONG, "attempt"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ended.get_nowait() is asyncio.CancelledError

    asyncio.run(main())


def test_a_call_without_an_answer_has_an_unknown_outcome() -> None:
    async def main() -> None:
        with pytest.raises(OutcomeUnknown, match=r"no answer to attempt within 0\.01 s"):
            await bounded(asyncio.Event().wait(), 0.01, "attempt")

    asyncio.run(main())


def test_a_timeout_of_the_client_itself_is_no_timeout_of_ours() -> None:
    async def times_out() -> None:
        raise TimeoutError("the client's own")

    async def main() -> None:
        with pytest.raises(TimeoutError, match="the client's own"):
            await bounded(times_out(), LONG, "attempt")

    asyncio.run(main())
