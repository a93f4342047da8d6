"""Leader election around a critical section: a deadline, a loss signal and a fencing token with every win."""

from coordkit import fencing, retry
from coordkit.aio import AsyncLeaderElector, AsyncTerm
from coordkit.elector import LeaderElector, Term
from coordkit.errors import (
    BackendError,
    BackendNotInstalled,
    CampaignTimeout,
    ConfigError,
    CoordkitError,
    ElectorBusy,
    ElectorClosed,
    ForkedProcessError,
    LeadershipLost,
    Misconfigured,
    OutcomeUnknown,
    Rejected,
    StaleToken,
    Unavailable,
)
from coordkit.model import (
    CandidateInfo,
    Fence,
    FencingToken,
    Guarantees,
    LeaderInfo,
    LossReason,
    TermState,
)
from coordkit.shared import Session

__version__ = "0.1.0"

__all__ = [
    "AsyncLeaderElector",
    "AsyncTerm",
    "BackendError",
    "BackendNotInstalled",
    "CampaignTimeout",
    "CandidateInfo",
    "ConfigError",
    "CoordkitError",
    "ElectorBusy",
    "ElectorClosed",
    "Fence",
    "FencingToken",
    "ForkedProcessError",
    "Guarantees",
    "LeaderElector",
    "LeaderInfo",
    "LeadershipLost",
    "LossReason",
    "Misconfigured",
    "OutcomeUnknown",
    "Rejected",
    "Session",
    "StaleToken",
    "Term",
    "TermState",
    "Unavailable",
    "__version__",
    "fencing",
    "retry",
]
