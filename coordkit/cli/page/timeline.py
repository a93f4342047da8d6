"""A drawing as HTML: strips that open and close, a lane for each candidate, and an axis.

The rule: whatever is drawn also says in words what it is, and no colour says what nothing else does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from coordkit.audit import Fate, Outcome
from coordkit.cli.page.drawing import Boot, Drawn, Mark, Row, Strip
from coordkit.cli.page.markup import escaped, name, plural, seconds

OPEN = 6  # strips of a page that are open at first, beside those with violations
CHARACTER = 0.75  # % of the width that a character of a label takes, on a narrow screen even more


def section(boot: Boot, number: int, opened: int) -> Iterator[str]:
    """All timelines of one boot."""
    told = "no boot id" if boot.boot_id is None else name(boot.boot_id)
    faults = f", {plural(boot.faults, 'fault')}" if boot.faults else ""
    yield f'<section class="boot" aria-labelledby="boot{number}">'
    yield f'<h2 id="boot{number}">Boot {number} <small>{told}, {seconds(boot.length)} on record{faults}</small></h2>'
    for each in boot.elections:
        yield from _election(each, boot.zero, opened)
    if boot.left_out:
        yield f'<p class="note">{plural(boot.left_out, "election")} more, without violations, are not drawn.</p>'
    yield "</section>"


def _election(drawn: Drawn, zero: float, opened: int) -> Iterator[str]:
    numbers = _terms(drawn.fates)
    numbers += [f"{plural(drawn.writes[each], 'write')} {_OUTCOMES[each]}" for each in Outcome if drawn.writes[each]]
    if drawn.violations:
        numbers.insert(0, f'<strong class="wrong">{plural(drawn.violations, "violation")}</strong>')
    yield f'<section class="election" data-name="{escaped(drawn.election)}">'
    yield f"<h3>{name(drawn.election)} <small>{', '.join(numbers)}</small></h3>"
    for number, strip in enumerate(drawn.strips):
        yield from _strip(strip, zero, is_open=number < opened or bool(strip.violations))
    yield "</section>"


def _terms(fates: Counter[Fate]) -> list[str]:
    """How many could act, and how all of them ended."""
    acting = fates.total() - fates[Fate.VOID]
    return [plural(acting, "term"), *(f"{fates[fate]} {fate.value}" for fate in Fate if fates[fate])]


_OUTCOMES = {
    Outcome.ACCEPTED: "accepted",
    Outcome.REFUSED: "refused",
    Outcome.UNKNOWN: "of unknown outcome",
}


def _strip(strip: Strip, zero: float, *, is_open: bool) -> Iterator[str]:
    numbers = _terms(strip.fates)
    if refused := sum(mark.count for row in strip.rows for mark in row.refused):
        numbers.append(f"{plural(refused, 'write')} refused")
    told = f"{seconds(max(0.0, strip.since - zero))} to {seconds(strip.until - zero)}: {', '.join(numbers)}"
    count = sum(mark.count for mark in strip.violations)
    wrong = f', <strong class="wrong">{plural(count, "violation")}</strong>' if count else ""
    yield f'<details class="strip"{" open" if is_open else ""}><summary>{told}{wrong}</summary><div class="rows">'
    lines = len(strip.faults) + len(strip.rows) + bool(strip.violations)
    yield f'<div class="back" style="grid-row:1/span {lines + 1}" aria-hidden="true">'
    for line in strip.faults:
        yield from (f'<i class="band {mark.style}" style="{_place(mark)}"></i>' for mark in line)
    yield from (f'<i class="grid" style="left:{place:.3f}%"></i>' for place, _ in strip.ticks)
    yield "</div>"
    at = 0
    if strip.violations:
        at += 1
        yield from _track(at, "violations", "", "violations", _violations(strip.violations))
    for number, line in enumerate(strip.faults):
        at += 1
        label = "" if number else "faults"
        yield from _track(at, label, "", "faults", (_bar(mark, "f", "fault") for mark in line), quiet=bool(number))
    for row in strip.rows:
        at += 1
        yield from _track(at, row.title, row.told, "lane", _lane(row), told=_numbers(row))
    yield f'<div class="axis" style="grid-row:{lines + 1}" role="img" aria-label="seconds since the first record">'
    yield from (f'<span style="left:{place:.3f}%">{text}</span>' for place, text in strip.ticks)
    yield f'</div><div class="label unit" style="grid-row:{lines + 1}">seconds</div></div></details>'


def _track(
    at: int, title: str, more: str, kind: str, marks: Iterable[str], *, told: str = "", quiet: bool = False
) -> Iterator[str]:
    label = f"{name(title)} <small>{escaped(more)}</small>" if more else name(title)
    spoken = escaped(", ".join(filter(None, [title or kind, more, told])), 400)
    hidden = " aria-hidden=true" if quiet else ""
    yield f'<div class="label" style="grid-row:{at}" title="{spoken}"{hidden}>{label}</div>'
    yield f'<div class="track {kind}" style="grid-row:{at}" role="group" aria-label="{spoken}">'
    yield from marks
    yield "</div>"


def _numbers(row: Row) -> str:
    numbers = [plural(sum(mark.count for mark in row.terms), "term")]
    if row.writes:
        numbers.append(plural(row.writes, "write"))
    if refused := sum(mark.count for mark in row.refused):
        numbers.append(f"{refused} of them refused")
    return ", ".join(numbers)


def _lane(row: Row) -> Iterator[str]:
    yield from (_bar(mark, "t", "terms") for mark in row.terms)
    if row.accepted:
        path = "".join(f"M{place * 10:.0f} 0v9" for place in row.accepted)
        yield (
            '<svg class="ticks" viewBox="0 0 1000 9" preserveAspectRatio="none" role="img" '
            f'aria-label="accepted writes"><path d="{path}"/></svg>'
        )
    yield from (_point(mark, "r", "refused writes") for mark in row.refused)
    yield from (_point(mark, "u", "writes of unknown outcome") for mark in row.unknown)


def _bar(mark: Mark, kind: str, what: str) -> str:
    wrong = " bad" if mark.bad else ""
    forms = [mark.label]
    if kind == "f":
        forms.append(mark.label.partition(" ")[0])
    elif len(mark.label) > 6:  # of a long token its last digits, which tell neighbours apart
        forms += [f"…{mark.label[-4:]}", f"…{mark.label[-3:]}"]
    label = next((escaped(each, 40) for each in forms if mark.width >= CHARACTER * (len(each) + 1)), "")
    style, told = f"{kind} {mark.style}{wrong}", _told(mark, what)
    return f'<b class="{style}" role="img" style="{_place(mark)}" title="{told}">{label}</b>'


def _point(mark: Mark, kind: str, what: str) -> str:
    middle = mark.left + mark.width / 2
    return f'<i class="{kind}" role="img" style="left:{middle:.3f}%" title="{_told(mark, what)}"></i>'


def _violations(marks: Iterable[Mark]) -> Iterator[str]:
    for mark in marks:
        first = mark.label if mark.count == 1 else ""
        href = f"#violation{first}" if first else "#violations"
        middle = mark.left + mark.width / 2
        told = _told(mark, "violations")
        yield f'<a class="v" href="{href}" style="left:{middle:.3f}%" title="{told}" aria-label="{told}">!</a>'


def _told(mark: Mark, what: str) -> str:
    if mark.count == 1:
        return escaped(mark.told[0], 400)
    worst = f", the worst {mark.style}" if what == "terms" else ""
    wrong = ", with violations" if mark.bad and what != "violations" else ""
    more = " …" if mark.count > len(mark.told) else ""
    return escaped(f"{mark.count} {what}{worst}{wrong}: {'; '.join(mark.told)}{more}", 400)


def _place(mark: Mark) -> str:
    return f"left:{mark.left:.3f}%;width:{mark.width:.3f}%"
