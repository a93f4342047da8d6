"""A background thread is started without waiting for it, and tools that trace threads see it."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import FrameType

from coordkit import threads


def test_the_thread_is_another_one_and_a_daemon() -> None:
    seen: SimpleQueue[tuple[int, bool]] = SimpleQueue()
    threads.start(lambda: seen.put((threading.get_ident(), threading.current_thread().daemon)))
    ident, daemon = seen.get(timeout=10)
    assert ident != threading.get_ident()
    assert daemon


def test_start_returns_before_the_thread_has_done_anything() -> None:
    gate: SimpleQueue[None] = SimpleQueue()
    done: SimpleQueue[str] = SimpleQueue()

    def work() -> None:
        gate.get(timeout=10)
        done.put("done")

    threads.start(work)
    assert done.empty()
    gate.put(None)
    assert done.get(timeout=10) == "done"


def test_trace_and_profile_functions_reach_the_thread() -> None:
    seen: SimpleQueue[tuple[str, str]] = SimpleQueue()
    done: SimpleQueue[None] = SimpleQueue()

    def note(kind: str) -> object:
        def hook(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code.co_name == "marked_work":
                seen.put((kind, event))

        return hook

    def marked_work() -> None:
        done.put(None)

    trace, profile = threading.gettrace(), threading.getprofile()
    threading.settrace(note("trace"))  # type: ignore[arg-type]
    threading.setprofile(note("profile"))  # type: ignore[arg-type]
    try:
        threads.start(marked_work)
        done.get(timeout=10)
        found = {seen.get(timeout=10) for _ in range(2)}
    finally:
        threading.settrace(trace)  # type: ignore[arg-type]
        threading.setprofile(profile)
    assert {("trace", "call"), ("profile", "call")} == found
