"""What can go wrong, named by who can mend it.

The rule: an error says what is known about the outcome. `Unavailable` wrote nothing and may be sent again;
`OutcomeUnknown` may have happened and must be asked about; `Rejected` and `Misconfigured` are never sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordkit.model import FencingToken, LossReason


class CoordkitError(Exception):
    """The root of every error that coordkit raises on purpose."""


class ConfigError(CoordkitError, ValueError):
    """Your code or configuration is wrong; raised before any I/O. Never contains credentials."""


class BackendNotInstalled(ConfigError):
    """The client package of this URL's scheme is not installed; the message names the extra to install."""


class BackendError(CoordkitError):
    """A backend did not do what was asked. The client's own exception is chained as `__cause__`.

    `backend` is the URL scheme, `operation` the word of the call that failed (`open`, `attempt`, `leader` ...).
    """

    def __init__(self, message: str, *, backend: str = "", operation: str = "") -> None:
        super().__init__(message)
        self.backend = backend
        self.operation = operation

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_backend_error, (type(self), str(self), self.backend, self.operation))


def _rebuild_backend_error(kind: type[BackendError], message: str, backend: str, operation: str) -> BackendError:
    return kind(message, backend=backend, operation=operation)


class Unavailable(BackendError):
    """Nothing was written to a socket or a file: the same call may be sent again."""


class OutcomeUnknown(BackendError):
    """A mutating call failed after its first byte: it may have happened, now or later. Ask before acting."""


class Rejected(BackendError):
    """The backend refused us (authentication, permission, quota). It is never sent again."""


class Misconfigured(BackendError):
    """The cluster, or its agreement with us, cannot keep the promise. It is never sent again."""


class CampaignTimeout(CoordkitError, TimeoutError):
    """Not elected within the time given. If the backend was failing, its last error is `__cause__`."""


class ElectorBusy(CoordkitError, RuntimeError):
    """This elector already has a campaign or a term; one elector is one candidate. Make a second elector."""


class ElectorClosed(CoordkitError):
    """The elector, or the session that it was given, has been closed."""


class ForkedProcessError(CoordkitError, RuntimeError):
    """A term or a session of the parent process was used in a forked child. Make a new elector in the child."""


class LeadershipLost(CoordkitError):
    """The term is over although nobody resigned it: stop writing now. A successor may lead already."""

    def __init__(self, message: str, *, term: Any = None, reason: LossReason | None = None) -> None:
        super().__init__(message)
        self.term = term
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # A term belongs to its process: what travels to another one is the message and the reason.
        return (_rebuild_leadership_lost, (str(self), self.reason))


def _rebuild_leadership_lost(message: str, reason: LossReason | None) -> LeadershipLost:
    return LeadershipLost(message, reason=reason)


class StaleToken(CoordkitError):
    """A fence has seen a newer token: the write was refused, its author leads no more.

    `offered` is the token that was refused, `newest` the highest that the fence has admitted.
    """

    def __init__(self, offered: FencingToken, newest: FencingToken) -> None:
        super().__init__(f"token {offered} is stale: {newest} was seen already")
        self.offered = offered
        self.newest = newest

    def __reduce__(self) -> tuple[Any, ...]:
        return (StaleToken, (self.offered, self.newest))
