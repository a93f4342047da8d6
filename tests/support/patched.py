"""A copy of the package with a rule patched out of its source, for processes of a test that are to run without it.

The rule: a patch is exact text that occurs once, so one that does not apply any more fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.children import ROOT

Patch = tuple[str, str, str]  # file in coordkit/, text, text instead


def patched(place: Path, *patches: Patch) -> Mapping[str, str]:
    """Make the copy under `place`, which there is not yet; the environment of a `Child` that is to import it."""
    shutil.copytree(ROOT / "coordkit", place / "coordkit", ignore=shutil.ignore_patterns("__pycache__"))
    for file, text, instead in patches:
        path = place / "coordkit" / file
        source = path.read_text(encoding="utf-8")
        assert source.count(text) == 1, f"{file} has this {source.count(text)} times, not once:\n{text}"
        path.write_text(source.replace(text, instead), encoding="utf-8")
    # A child begins in the checkout, which would come before the copy.
    return {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
