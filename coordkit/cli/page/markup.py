"""Text as HTML. The rule: nothing of a journal gets into the page but by these functions."""

from __future__ import annotations

import html
import unicodedata

LONGEST = 160  # characters of a name; the rest is cut off


def shown(text: object, longest: int = LONGEST) -> str:
    """A text without what cannot be seen, or turns the writing round; not escaped yet."""
    whole = str(text)
    cut = whole if len(whole) <= longest else whole[: longest - 1] + "…"
    return "".join(char if unicodedata.category(char)[0] != "C" or char == " " else _visible(char) for char in cut)


def _visible(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def escaped(text: object, longest: int = LONGEST) -> str:
    """For the inside of an element, or of an attribute in double quotes."""
    return html.escape(shown(text, longest))


def name(text: object) -> str:
    """A name of somebody else's choice: whatever its letters, it does not turn round what stands beside it."""
    return f"<bdi>{escaped(text)}</bdi>"


def plural(count: int, word: str) -> str:
    """Such as `1 term`, `2 terms`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def seconds(value: float) -> str:
    """Such as `12.345 s`."""
    return f"{value:.3f} s"
