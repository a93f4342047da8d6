"""The examination of a backend: can it keep its promise, and if not, why?

The rule: each check has its own time and its own fate, so that one that fails or hangs hides no other. Checks look;
what they have to write to find out, such as a lease, they take back. Nothing here decides who leads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coordkit.backends.contract import Backend, Host
from coordkit.engine import current
from coordkit.errors import BackendError, ConfigError, Rejected
from coordkit.findings import Check, Finding, Step, Verdict, failed, of_error, opening, unchecked, warning
from coordkit.lease import DEFAULT_TTL
from coordkit.model import Guarantees, check_seconds
from coordkit.registry import Address, connect, doctor, guarantees, parse
from coordkit.waiting import bounded

CHECK_SECONDS = 10.0  # for one check
CLOSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, in the order in which it was looked at. `url` has no credentials."""

    url: str
    guarantees: Guarantees
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no promise is broken, as far as it could be looked at; there may be warnings."""
        return self.number(Verdict.FAILED) == 0

    def number(self, verdict: Verdict) -> int:
        """How many findings are of this kind."""
        return sum(finding.verdict is verdict for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """All of it, in what JSON knows."""
        return {
            "url": self.url,
            "backend": self.guarantees.backend,
            "ok": self.ok,
            "guarantees": asdict(self.guarantees),
            "findings": [{**asdict(finding), "verdict": finding.verdict.value} for finding in self.findings],
        }


def examine(url: str, *, ttl: float = DEFAULT_TTL, timeout: float = CHECK_SECONDS) -> Diagnosis:
    """Look at all that is known to matter in the backend at `url`; each check has `timeout` seconds.

    It contends in no election and changes nothing that an election lives by. `ttl` is the one that the electors are to
    have. Raises `ConfigError` before any I/O; whatever the backend does or fails to do is a finding.
    """
    address = parse(url)
    seconds = check_seconds(timeout, "timeout")
    lease = check_seconds(ttl, "ttl")
    engine = current()
    return engine.ask(lambda: diagnose(engine, address, lease, seconds))


def refuse_repairs(url: str, asked: Iterable[str]) -> None:
    """Raise `ConfigError` for an option that mends what the backend at `url` does not have."""
    address = parse(url)
    known = getattr(doctor(address), "REPAIRS", ())
    for option in asked:
        if option not in known:
            raise ConfigError(f"{address.scheme}:// needs no {option}: it has nothing that this would mend")


async def diagnose(host: Host, address: Address, ttl: float, seconds: float) -> Diagnosis:
    """As `examine`, on the host's loop."""
    module = doctor(address)
    backend = connect(address, host, ttl)
    promised = guarantees(address)
    try:
        checks = _opening_alone(backend, address) if module is None else module.checks(backend, address, ttl)
        findings = await made(checks, host, seconds)
    finally:
        await _closed(backend, host)
    return Diagnosis(address.shown, promised, tuple(findings))


def mend(url: str, option: str, value: str = "") -> Generator[Step]:
    """The steps of a repair, such as `--init`, each made when it is asked for; the findings tell what was done.

    A `Question` wants the operator's word: to ask for the next step gives it, and if it is wrong, two may lead. May be
    broken off and repeated at any time. Not bound by a timeout: some have to wait. Raises `ConfigError` before any I/O.
    """
    refuse_repairs(url, [option])
    engine, address = current(), parse(url)
    mending = engine.ask(lambda: _begun(engine, address, option, value))
    try:
        while (step := engine.ask(mending.next)) is not None:
            yield step
    except BackendError as error:
        yield of_error(option.strip("-"), error)
    finally:
        engine.ask(mending.end)


async def _begun(host: Host, address: Address, option: str, value: str) -> _Mending:
    backend = connect(address, host)
    try:
        return _Mending(host, backend, doctor(address).repair(backend, address, option, value))
    except ConfigError:
        await _closed(backend, host)
        raise


class _Mending:
    """A repair under way. On the host's loop."""

    def __init__(self, host: Host, backend: Backend, steps: AsyncGenerator[Step]) -> None:
        self._host = host
        self._backend = backend
        self._steps = steps
        self._busy = False

    async def next(self) -> Step | None:
        """Its next step; None: it is over."""
        self._busy = True
        try:
            return await anext(self._steps, None)
        finally:
            self._busy = False

    async def end(self) -> None:
        """Let go of it, wherever it is."""
        try:
            if not self._busy:  # else it is being cancelled
                await self._steps.aclose()
        finally:
            await _closed(self._backend, self._host)


async def _closed(backend: Backend, host: Host) -> None:
    try:
        await bounded(backend.close(), CLOSE_SECONDS, "close")
    except BackendError as error:
        host.log.info("the connection was not closed: %r", error)


async def made(checks: Sequence[Check], host: Host, seconds: float) -> list[Finding]:
    """Make these checks, one after the other; what they found."""
    findings: list[Finding] = []
    missed: set[str] = set()
    for check in checks:
        if check.needs in missed:
            found: Sequence[Finding] = [unchecked(check.name, f"not looked at, for want of the {check.needs}")]
        else:
            found = await _made(check, host, seconds)
        if check.needs in missed or any(each.verdict is Verdict.FAILED for each in found):
            missed.add(check.name)
        findings += found
    return findings


async def _made(check: Check, host: Host, seconds: float) -> Sequence[Finding]:
    try:
        return await bounded(check.look(seconds), seconds, check.name)
    except Rejected as error:
        return [unchecked(check.name, f"this user may not ask for it: {error}")]
    except BackendError as error:
        return [of_error(check.name, error)]
    except Exception as error:  # noqa: BLE001 - one check that is broken hides no other
        host.log.error("the check %s is broken: %r", check.name, error)
        told = f"the check itself is broken: {type(error).__name__}"
        return [failed(check.name, told, "nothing is known about it", "report this as a fault of coordkit")]


def _opening_alone(backend: Backend, address: Address) -> Sequence[Check]:
    async def none(_: float) -> Sequence[Finding]:
        meaning = "what might break its promise was not looked at"
        told = f"coordkit knows no checks for {address.scheme}://; that it can be opened is all that was looked at"
        return [warning("checks", told, meaning, "ask whoever provides this backend")]

    return [opening(backend.open), Check("checks", none)]
