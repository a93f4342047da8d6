"""Asking `coordkit.doctor` in tests. The rule: what is looked for is named, and so is what is not well besides."""

from __future__ import annotations

from coordkit.doctor import Diagnosis
from coordkit.findings import Finding, Verdict


def of(diagnosis: Diagnosis, check: str) -> Finding:
    """The one finding of a check."""
    (found,) = (finding for finding in diagnosis.findings if finding.check == check)
    return found


def troubles(diagnosis: Diagnosis) -> dict[str, Verdict]:
    """By check: what is not well; where a check has found several things, the last. What it says of it is printed."""
    found = [each for each in diagnosis.findings if each.verdict is not Verdict.OK]
    for each in found:
        print(f"{each.check}: {each.detail}")
    return {each.check: each.verdict for each in found}
