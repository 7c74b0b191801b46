"""Knows how facts and tables look in a notebook: HTML in which all that comes from elsewhere is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = ["Markup", "bold", "escaped", "fact_table", "folded", "joined", "table"]

_NUMBER: Final = "text-align:right;font-variant-numeric:tabular-nums"
_TEXT: Final = "text-align:left"


class Markup(str):
    """HTML that is safe as it stands."""

    __slots__ = ()


def escaped(content: object) -> Markup:
    """Give HTML as it is, and anything else as the text that it shows."""
    import html  # takes long to import, and only a notebook asks

    return content if isinstance(content, Markup) else Markup(html.escape(str(content)))


def joined(*parts: object) -> Markup:
    """Put some pieces one below the other."""
    return Markup("<div>" + "".join(f"<div>{escaped(part)}</div>" for part in parts) + "</div>")


def bold(content: object) -> Markup:
    """Make something stand out."""
    return Markup(f"<b>{escaped(content)}</b>")


def folded(summary: object, text: object) -> Markup:
    """Show a summary that opens to a longer text, as it is laid out."""
    return Markup(
        f"<details><summary>{escaped(summary)}</summary>"
        f"<pre style='text-align:left;margin:0.5em 0'>{escaped(text)}</pre></details>"
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Make a table; numbers stand at the right."""
    head = "".join(f"<th style='{_TEXT}'>{escaped(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def fact_table(facts: Mapping[str, Any]) -> Markup:
    """Make a table of names and what goes by them."""
    body = "".join(
        f"<tr><th style='{_TEXT}'>{escaped(name)}</th><td style='{_TEXT}'>{escaped(fact)}</td></tr>"
        for name, fact in facts.items()
    )
    return Markup(f"<table><tbody>{body}</tbody></table>")


def _cell(content: object) -> str:
    from numbers import Real  # takes long to import, and only a notebook asks

    is_number = isinstance(content, Real) and not isinstance(content, bool)
    text = f"{content:.6g}" if isinstance(content, float) else content
    return f"<td style='{_NUMBER if is_number else _TEXT}'>{escaped(text)}</td>"
