"""Format sizes, times, counts and HTML for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

_SIZES: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    r"""Escape lone surrogates, which no stream can encode.

    >>> printable("half of a pair: \udcff")
    'half of a pair: \\udcff'
    """
    return text.encode(errors="backslashreplace").decode()


def visible(text: str) -> str:
    r"""Escape everything that isn't printable, so that a text stays on one line and can't control a terminal.

    >>> visible("a\x1b[2Jb\n"), visible("é")
    ('a\\x1b[2Jb\\n', 'é')
    """
    if text.isprintable():  # a lone surrogate is not
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def size_text(size: float) -> str:
    """Format a size in bytes with three digits.

    >>> size_text(999), size_text(1_234_567), size_text(999_999)
    ('999 B', '1.23 MB', '1.00 MB')
    """
    unit = 0
    while float(f"{size:.3g}") >= 1000 and unit < len(_SIZES) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{_three_digits(size)} {_SIZES[unit]}"


def _three_digits(number: float) -> str:
    """Format a number below 1000 with three digits, including trailing zeros."""
    digits = 2 if float(f"{number:.3g}") < 10 else 1 if float(f"{number:.3g}") < 100 else 0
    return f"{number:.{digits}f}"


_CLOCK: Final = (
    (60, 1, ("min", "s"), 3600.0),
    (3600, 60, ("h", "min"), 86400.0),
    (86400, 3600, ("d", "h"), math.inf),
)
"""Units of durations: their seconds and those of the smaller unit, their names, and below what they are used."""


def seconds_text(seconds: float) -> str:
    """Format a measured duration.

    >>> seconds_text(0.0123), seconds_text(75), seconds_text(3 * 3600 + 61), seconds_text(90_000), seconds_text(1.04e-5)
    ('0.0123 s', '1 min 15 s', '3 h 1 min', '1 d 1 h', '0.00001 s')
    """
    if 0 < seconds < 0.0001:
        return f"{max(seconds, 0.00001):.5f} s"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    unit, smaller, names, _ = next(each for each in _CLOCK if round(seconds / each[1]) * each[1] < each[3])
    large, small = divmod(round(seconds / smaller), unit // smaller)
    return f"{large} {names[0]} {small} {names[1]}"


def roughly(seconds: float) -> str:
    """Format an estimated duration with two digits.

    >>> roughly(0.0123), roughly(75), roughly(11_160), roughly(3 * 86_400)
    ('12 ms', '1.2 min', '3.1 h', '3 d')
    """
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (0.001, "ms")):
        if seconds >= 0.995 * unit:
            return f"{float(f'{seconds / unit:.2g}'):,.10g} {name}"
    return "less than 1 ms"


def moment_text(moment: datetime) -> str:
    """Format a time in the local time zone, to the minute."""
    try:
        return f"{moment.astimezone():%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError):  # near the year 1 or 9999
        return f"{moment:%Y-%m-%d %H:%M}"


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Format arguments as in a call.

    >>> arguments_text({"model": "svm", "c": 0.1})
    "model='svm', c=0.1"
    """
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def counted(number: int, noun: str) -> str:
    """Format a number with its noun.

    >>> counted(1, "entry"), counted(2000, "entry"), counted(0, "hit")
    ('1 entry', '2,000 entries', '0 hits')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Make the end of a message that names the known word most like this one; empty if none is like it.

    >>> did_you_mean("acuracy", ["accuracy", "loss"]), did_you_mean("x", ["loss"])
    ('. Did you mean accuracy?', '')
    """
    from difflib import get_close_matches  # slow to import, and only mistakes need it

    like = get_close_matches(word, list(known), 1)
    return f". Did you mean {like[0]}?" if like else ""


def is_writable(text: str) -> bool:
    r"""Whether UTF-8 can encode a text, which it can't with a lone surrogate.

    >>> is_writable("ä"), is_writable("\udcff")
    (True, False)
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Format rows of a table as lines. The numbers of right-aligned columns are in `right`.

    >>> aligned([("name", "size"), ("a", "12 B")]), aligned([("name", "size"), ("a", "2 B")], [1])
    (['name  size', 'a     12 B'], ['name  size', 'a      2 B'])
    """
    columns = [*zip(*rows, strict=True)]
    padded = []
    for number, cells in enumerate(columns):
        width = max(map(len, cells))
        padded.append([cell.rjust(width) if number in right else cell.ljust(width) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]


_NUMBER: Final = "text-align:right;font-variant-numeric:tabular-nums"
_TEXT: Final = "text-align:left"


class Markup(str):
    """HTML that is safe as it stands."""

    __slots__ = ()


def escaped(content: object) -> Markup:
    """Return markup as it is, and the escaped text of anything else."""
    import html  # slow to import, and only notebooks need it

    return content if isinstance(content, Markup) else Markup(html.escape(str(content)))


def joined(*parts: object) -> Markup:
    """Stack parts vertically."""
    return Markup("<div>" + "".join(f"<div>{escaped(part)}</div>" for part in parts) + "</div>")


def bold(content: object) -> Markup:
    """Format content in bold."""
    return Markup(f"<b>{escaped(content)}</b>")


def folded(summary: object, text: object) -> Markup:
    """Make a summary that unfolds to a preformatted text."""
    return Markup(
        f"<details><summary>{escaped(summary)}</summary>"
        f"<pre style='text-align:left;margin:0.5em 0'>{escaped(text)}</pre></details>"
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Make a table; numbers are right-aligned."""
    head = "".join(f"<th style='{_TEXT}'>{escaped(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def fact_table(facts: Mapping[str, Any]) -> Markup:
    """Make a table of names and values."""
    body = "".join(
        f"<tr><th style='{_TEXT}'>{escaped(name)}</th><td style='{_TEXT}'>{escaped(fact)}</td></tr>"
        for name, fact in facts.items()
    )
    return Markup(f"<table><tbody>{body}</tbody></table>")


def _cell(content: object) -> str:
    from numbers import Real  # slow to import, and only notebooks need it

    is_number = isinstance(content, Real) and not isinstance(content, bool)
    text = f"{content:.6g}" if isinstance(content, float) else content
    return f"<td style='{_NUMBER if is_number else _TEXT}'>{escaped(text)}</td>"
