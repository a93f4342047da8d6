"""A mailbox: told by many, waited for by one, and no signal makes a timed wait endless."""

from __future__ import annotations

import signal
import threading
import time
from queue import Empty

import pytest

from coordkit import threads
from coordkit.threads import Mailbox


def test_items_come_in_order_and_told_twice_is_told_twice() -> None:
    box: Mailbox[int] = Mailbox()
    for number in range(3):
        box.put(number)
    assert [box.get(timeout=1) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Empty):
        box.get(timeout=0)


@pytest.mark.parametrize("timeout", [0, 0.01, -1.0])
def test_a_wait_without_word_is_empty_when_the_time_is_up(timeout: float) -> None:
    started = time.monotonic()
    with pytest.raises(Empty):
        Mailbox().get(timeout=timeout)
    assert time.monotonic() - started >= timeout


def test_a_word_wakes_the_one_who_waits() -> None:
    box: Mailbox[str] = Mailbox()
    waits: Mailbox[None] = Mailbox()

    def tell() -> None:
        waits.get()
        box.put("word")

    threads.start(tell)
    waits.put(None)
    assert box.get() == "word"


def test_many_tell_and_nothing_is_lost() -> None:
    box: Mailbox[int] = Mailbox()
    tellers = [threading.Thread(target=lambda: [box.put(1) for _ in range(500)]) for _ in range(4)]
    for teller in tellers:
        teller.start()
    assert sum(box.get(timeout=20) for _ in range(2000)) == 2000
    for teller in tellers:
        teller.join()


def test_a_ctrl_c_ends_the_wait_and_the_box_can_be_told_and_read_again() -> None:
    box: Mailbox[str] = Mailbox()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            box.get()
    finally:
        signal.signal(signal.SIGALRM, before)
    box.put("word")
    assert box.get(timeout=1) == "word"


def test_signal_handlers_do_not_make_a_timed_wait_endless() -> None:
    """With `SimpleQueue` one in some 10,000 of these waits never ends on CPython 3.11."""
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        ended = time.monotonic() + 2
        while time.monotonic() < ended:
            with pytest.raises(Empty):
                Mailbox().get(timeout=0.0002)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 100
