"""The machine's own sources of packages, for another release of the same distribution. Pure.

The rule: a source stays as it is, with its mirror, its options and the keys that it trusts; only the release changes.
Both ways of writing sources are known: lines (`*.list`) and stanzas (`*.sources`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What `apt-get indextargets` is asked for, and answers once the lists are there.
TARGETS = "target|$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(REPO_URI)|$(SOURCESENTRY)"
DISTRIBUTION = "Debian"
_LINE = re.compile(r"\s*deb\s+(?P<options>\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the machine's release comes from: one entry of a file. `suite` is the release as that entry calls it."""

    file: Path
    uri: str
    suite: str


def sources(targets: str) -> set[Source]:
    """The main archives of the distribution, of what apt tells; neither its updates' nor anybody else's."""
    found = set()
    for line in targets.splitlines():
        marker, *fields = line.split("|")
        if marker == "target" and len(fields) == 5:
            origin, codename, suite, uri, entry = fields
            if origin == DISTRIBUTION and "-" not in codename:
                found.add(Source(Path(entry.rpartition(":")[0]), uri.rstrip("/"), suite))
    return found


def renamed(text: str, of: Source, release: str) -> str:
    """The entries for this source in the text of its file, with the release put in place of the machine's."""
    entries = _stanzas(text, of, release) if of.file.suffix == ".sources" else _lines(text, of, release)
    return "".join(entries)


def _lines(text: str, of: Source, release: str) -> Iterator[str]:
    for line in text.splitlines():
        found = _LINE.match(line)
        if found and found["suite"] == of.suite and found["uri"].rstrip("/") == of.uri:
            yield f"deb {found['options'] or ''}{found['uri']} {release} {found['components'].strip()}\n"


def _stanzas(text: str, of: Source, release: str) -> Iterator[str]:
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", without_comments):
        fields = _fields(stanza.splitlines())
        uris = [uri.rstrip("/") for uri in fields.get("uris", "").split()]
        disabled = fields.get("enabled", "").strip().lower() in ("no", "false", "without", "off", "disable", "0")
        if of.suite in fields.get("suites", "").split() and of.uri in uris and not disabled:
            yield _stanza(fields | {"types": " deb", "suites": f" {release}"})


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """By name, which may be written in any case: the value, all its lines as they are."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1].isspace():
            fields[name] += f"\n{line}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value
    return fields


def _stanza(fields: Mapping[str, str]) -> str:
    return "".join(f"{name}:{value}\n" for name, value in fields.items()) + "\n"
