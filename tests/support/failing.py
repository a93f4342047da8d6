"""What failures tell, and what they must not tell.

The rule: a failure has the right type, comes in time and names what is wrong. A password is in nothing that it shows:
no message, repr, traceback, pickle or log record, neither as it is nor percent-encoded.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from coordkit.engine import existing

T = TypeVar("T")

MARK = "s3cr3t"  # the part of the password that looks the same however it is written
PASSWORD = f"{MARK}%:/?#[]@ä'\"\\+&="  # etcdctl reads no further than a blank
LOG_SECONDS = 2.0


@contextmanager
def fails(kind: type[BaseException], *names: str, within: float) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block raises exactly this kind within so many seconds; its message has all of `names` and no password."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        yield caught
    seconds = time.monotonic() - started
    assert type(caught.value) is kind
    reveals_nothing(caught.value)
    for name in names:
        assert name in str(caught.value)
    assert seconds <= within, f"took {seconds:.3f} s: {caught.value}"


def reveals_nothing(error: BaseException) -> None:
    """Fail if a password can be read from an error, or from those that it came from."""
    shown = ["".join(traceback.format_exception(error)), ascii(pickle.dumps(error))]
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            shown += [str(each), repr(each), repr(each.args), repr(vars(each)), *getattr(each, "__notes__", ())]
            chain += [each.__cause__, each.__context__]
    for text in shown:
        assert MARK not in text


@pytest.fixture
def nothing_revealed(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """After the test: no password in any log record, nor in what was written to stdout and stderr."""
    caplog.set_level(logging.INFO)
    yield
    if (engine := existing()) is not None:
        engine.log.flush(LOG_SECONDS)  # type: ignore[attr-defined]
    written = capfd.readouterr()
    # `caplog.records` are those of the phase that runs, which is the end of the test.
    records = [record for phase in ("setup", "call", "teardown") for record in caplog.get_records(phase)]
    shown = [text for record in records for text in (record.getMessage(), repr(vars(record)))]
    for text in (*shown, written.out, written.err):
        assert MARK not in text
    print(written.out, written.err)  # for the report, if the test has failed


def later(call: Callable[[], T]) -> Future[T]:
    """Call it in a thread of its own that keeps no process alive; its outcome."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # whoever asks for the outcome gets it
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until it holds: of what servers tell only when they are asked."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.02)
