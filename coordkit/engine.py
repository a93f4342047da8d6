"""The one background thread with the one event loop, and what becomes of it at a fork and at exit.

The rule: application threads and the engine share no lock. In goes `loop.call_soon_threadsafe`, out comes
`Mailbox.put`, both reentrant and atomic: a Ctrl-C at any instruction of an application thread leaves the engine
running. The application's code never runs here, and logging handlers never run here.

Every request has an answer: if the engine ends all the same, all terms are lost locally at once and every waiter is
told. A forked child finds no engine under its own pid and makes its own; what it inherited is never touched, for
closing it would take the parent's sockets out of the shared epoll set.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextvars
import os
from collections.abc import Callable, Coroutine, Hashable
from queue import Empty
from typing import Any, Generic, TypeVar, cast

from coordkit import threads
from coordkit.backends.contract import Journal, Log
from coordkit.clock import system_chance, system_clock
from coordkit.errors import OutcomeUnknown
from coordkit.journal import journal_from_environment
from coordkit.log import QueuedLog
from coordkit.registry import Address, connect, sharing_key
from coordkit.session import Keeper

T = TypeVar("T")

LOG_SECONDS = 0.5  # how long it waits for the last log records
EXIT_SECONDS = 2.0  # how long the exit of the interpreter waits for releases that are under way


Deliver = Callable[[Any, BaseException | None], object]


class EngineDied(OutcomeUnknown):
    """The background thread has ended; its terms are lost. The next campaign starts a new one."""


class Request(Generic[T]):
    """One call from an application thread into the engine: a coroutine there, one outcome back.

    `deliver(value, error)` is called exactly once, on the engine's thread. `cancel` may be posted at any time.
    """

    def __init__(self, engine: Engine, work: Callable[[], Coroutine[Any, Any, T]], deliver: Deliver) -> None:
        self._engine = engine
        self._work = work
        self._deliver: list[Deliver] = [deliver]  # popped by whoever delivers: list.pop is atomic
        self._task: asyncio.Task[T] | None = None

    def send(self) -> None:
        """Hand it to the engine; raises `EngineDied` if there is none any more."""
        self._engine.requests[id(self)] = self
        # Registered first, checked second: a dying engine sets `dead` first and answers the registered second.
        if self._engine.dead:
            self._engine.requests.pop(id(self), None)
            raise EngineDied("the engine of this process has ended")
        self._engine.post(self._start)

    def cancel(self) -> None:
        """Nobody waits any more: stop the work. Safe from any thread."""
        self._deliver.clear()
        self._engine.requests.pop(id(self), None)
        if not self._engine.dead:
            self._engine.post(self._stop)

    def forget(self) -> None:
        """Let the work go on, and its caller wait for ever."""
        self._deliver.clear()

    def answer(self, value: T | None, error: BaseException | None) -> None:
        """Deliver the outcome, unless it has been delivered or nobody waits."""
        self._engine.requests.pop(id(self), None)
        try:
            deliver = self._deliver.pop()
        except IndexError:
            return
        deliver(value, error)

    def _start(self) -> None:
        if not self._deliver:
            self._engine.requests.pop(id(self), None)
            return
        try:
            work = self._work()
        except Exception as error:  # noqa: BLE001 - before there is a task: whoever asked is told all the same
            self.answer(None, error)
            return
        self._task = self._engine.spawn_quietly(work, "request")
        self._task.add_done_callback(self._done)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[T]) -> None:
        self._task = None  # freed on this thread: freeing one runs Python, in which a Ctrl-C would be swallowed
        if task.cancelled():
            self.answer(None, EngineDied("the request was cancelled by the engine"))
        elif (error := task.exception()) is not None:
            self.answer(None, error)
        else:
            self.answer(task.result(), None)


class Engine:
    """The background thread of one process: the host of the core. Get it with `current()`."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.clock = system_clock()
        self.chance = system_chance()
        self.log: Log = QueuedLog()
        self.journal: Journal = journal_from_environment(self.log.error)
        self.loop = asyncio.new_event_loop()  # after what may raise: nobody would close it
        self.dead = False
        self.running = False
        self.requests: dict[int, Request[Any]] = {}
        self.keepers: dict[Hashable, Keeper] = {}  # the engine's own; by sharing key
        self.sessions: set[Keeper] = set()  # these, and those that are closing
        self._ident = 0  # of the thread
        self._unclaimed = [None]  # popped by the one thread that runs the loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop.set_exception_handler(self._report_stray)

    # --- from any thread -------------------------------------------------------------------------------------

    def post(self, call: Callable[..., object], *values: object) -> None:
        """Run `call` soon on the engine; if the engine has ended, nothing happens."""
        try:
            self.loop.call_soon_threadsafe(call, *values, context=contextvars.Context())
        except RuntimeError:  # the loop is closed: `dead` is set, and whoever waits has been answered
            if not self.dead:
                raise

    def ensure_running(self) -> None:
        """Start the thread, unless it runs. Two may be started by a race; the second finds nothing to do."""
        if not self.running:
            threads.start(self._main)

    def ask(self, work: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine on the engine and wait for it. An interrupted wait returns at once and cancels it.

        `timeout` only guards the wait: raises `TimeoutError`, and the work is cancelled.
        """
        if self.here():
            raise EngineDied("the engine cannot wait for itself")
        mailbox: threads.Mailbox[tuple[T, BaseException | None]] = threads.Mailbox()
        request = Request(self, work, lambda value, error: mailbox.put((value, error)))
        try:
            request.send()
            try:
                value, error = mailbox.get(timeout=timeout)
            except Empty:
                raise TimeoutError(f"no answer within {timeout:g} s") from None
        except BaseException:
            request.cancel()
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # else the traceback and this frame keep each other alive
        return value

    async def ask_async(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `ask`, from a coroutine of the application's own loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()

        def settle(value: T, error: BaseException | None) -> None:
            try:
                if error is None:
                    waiter.set_result(value)
                else:
                    waiter.set_exception(error)
            except asyncio.InvalidStateError:  # cancelled, perhaps this instant: asyncio.run does so in a handler
                return

        def deliver(value: T, error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:  # that loop is closed: nobody waits; the ticket of an entry abandons it
                self.log.info("the event loop of a caller was closed before its answer came")

        request = Request(self, work, deliver)
        try:
            request.send()
            return await waiter
        except BaseException:
            request.cancel()
            raise

    # --- on the engine's loop --------------------------------------------------------------------------------

    def keeper(self, address: Address, ttl: float) -> Keeper:
        """The session of an address: one for all electors with an equal key."""
        key = sharing_key(address, ttl)
        keeper = self.keepers.get(key)
        if keeper is None:
            backend = connect(address, self, ttl)
            unused = lambda _: self.keepers.pop(key, None)  # noqa: E731
            keeper = Keeper(self, backend, on_unused=unused, on_closed=self.sessions.discard)
            self.keepers[key] = keeper
            self.sessions.add(keeper)
        return keeper

    def here(self) -> bool:
        """Whether this is the engine's own thread: only in a finalizer, run by a collection that happened there."""
        return _thread.get_ident() == self._ident

    # --- the host of the core --------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task in an empty context; its failure is logged."""
        task = self.spawn_quietly(work, name)
        task.add_done_callback(self._report)
        return task

    def spawn_quietly(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task whose failure its owner looks at."""
        task = self.loop.create_task(work, name=f"coordkit:{name}", context=contextvars.Context())
        self._tasks.add(task)  # the loop holds its tasks weakly only
        task.add_done_callback(self._tasks.discard)
        return task

    async def offload(self, call: Callable[[], T]) -> T:
        """Run the application's code on a daemon thread of its own."""
        answer: asyncio.Future[T] = self.loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(cast(T, value))
            else:
                answer.set_exception(error)

        def run() -> None:
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - SystemExit of user code ends its question, not the program
                if not isinstance(error, Exception) or isinstance(error, StopIteration):
                    cause, error = error, RuntimeError(f"the application's code raised {error!r}")
                    error.__cause__ = cause  # a cancellation or an exit would be taken for one of the engine's own
                self.post(settle, None, error)
            else:
                self.post(settle, value, None)

        threads.start(run)
        return await answer

    def _report(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("task %s failed: %r", task.get_name(), error)

    def _report_stray(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What no task answers for. asyncio's own way would run the handlers of `logging` on this thread.
        self.log.error("%s: %r", context.get("message"), context.get("exception"))

    # --- the thread ------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._unclaimed.pop()
        except IndexError:
            return
        self._ident = _thread.get_ident()
        self.running = True
        try:
            asyncio.set_event_loop(self.loop)
            while not self.dead:
                try:
                    self.loop.run_forever()
                    break
                except (SystemExit, KeyboardInterrupt) as error:
                    # Raised inside a task: asyncio fails the task, then lets it through to here. Go on.
                    self.log.error("%r in a task of the engine", error)
        finally:
            self._die()

    def _die(self) -> None:
        self.dead = True
        for keeper in list(self.sessions):
            keeper.engine_died()
        for request in list(self.requests.values()):
            try:
                request.answer(None, EngineDied("the engine of this process has ended"))
            except Exception as error:  # noqa: BLE001 - the others wait for their answers, too
                self.log.error("a caller could not be told that the engine has ended: %r", error)


_engines: dict[int, Engine] = {}  # by pid: a forked child finds none, and keeps its parent's alive untouched
_graves: list[Engine] = []
_exit_registered: dict[int, bool] = {}


def current() -> Engine:
    """The engine of this process, made when first asked for. Never takes a lock."""
    pid = os.getpid()
    engine = _engines.get(pid)
    if engine is not None and engine.dead:
        _graves.append(engine)  # kept: dropping a loop that was never closed would warn
        if _engines.get(pid) is engine:
            _engines.pop(pid, None)
        engine = None
    if engine is None:
        made = Engine()
        engine = _engines.setdefault(pid, made)
        if engine is not made:
            made.loop.close()
        if not _exit_registered:
            _exit_registered[pid] = True
            atexit.register(_at_exit)
    engine.ensure_running()
    return engine


def existing() -> Engine | None:
    """The living engine of this process, if there is one: for finalizers and exit handlers, which make none."""
    engine = _engines.get(os.getpid())
    return None if engine is None or engine.dead else engine


def _at_exit() -> None:
    engine = existing()
    if engine is None:
        return
    # Locally first, here and now: no term of this process is valid once the exit has begun.
    for keeper in list(engine.sessions):
        keeper.end_all()

    for request in list(engine.requests.values()):
        request.forget()  # whoever waits on a daemon thread is not woken up to raise into the exit

    async def finish() -> None:
        await asyncio.gather(*(keeper.exit() for keeper in list(engine.sessions)))

    try:
        engine.ask(finish, timeout=EXIT_SECONDS)
    except (TimeoutError, EngineDied):
        engine.log.warning("the exit did not wait for releases that took more than %g s", EXIT_SECONDS)
    engine.log.flush(LOG_SECONDS)
