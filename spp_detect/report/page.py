"""A page of pictures and facts, one html file without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
dl { display: flex; flex-wrap: wrap; gap: 0 2.5rem; margin: 1rem 0 }
dt { color: var(--soft); font-size: .85rem }
dd { font-size: 1.6rem; font-variant-numeric: tabular-nums; margin: 0 }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }
figure { border: 1px solid var(--line); border-radius: 6px; margin: 0; overflow: hidden }
figure img { display: block; height: 16rem; object-fit: contain; width: 100%; background: #8881 }
figcaption { font-size: .85rem; overflow-wrap: anywhere; padding: .5rem .75rem }
figcaption span { color: var(--soft) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right }
th[scope="row"], th:first-child { text-align: left }
.wide { grid-template-columns: 1fr }
.wide img { height: auto; max-height: 48rem }
"""


class Figure(NamedTuple):
    """A picture of a page: its address (quoted), its title, what it shows."""

    address: str
    title: str
    caption: str


class Table(NamedTuple):
    """A table of a page: a heading a column, and rows as long; the first column is words."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


Section = tuple[str, "Sequence[Figure] | Table"]  # its heading, and what it holds


def render_page(
    title: str,
    facts: dict[str, str],
    sections: Sequence[Section],
    notes: Sequence[str] = (),
) -> str:
    """Render a page: a title, facts in large type, sections of figures or a table, notes at last.

    A section of one figure shows it wide.
    """
    terms = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()
    )
    body = [f"<h1>{escape(title)}</h1>", f"<dl>{terms}</dl>"]
    for heading, figures in sections:
        if isinstance(figures, Table):
            body.append(f"<h2>{escape(heading)}</h2>{_render_table(figures)}")
            continue
        kind = "grid wide" if len(figures) == 1 else "grid"
        body.append(f"<h2>{escape(heading)}</h2>")
        body.append(f'<div class="{kind}">{"".join(map(_render_figure, figures))}</div>')
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        body.append(f"<h2>Notes</h2><ul>{items}</ul>")
    title = escape(title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    content = "".join(body)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{content}</body></html>\n'


def _render_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in table.heading)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(word)}</td>" for word in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll">{whole}</div>'


def _render_figure(figure: Figure) -> str:
    image = f'<img loading="lazy" src="{escape(figure.address)}" alt="{escape(figure.title)}">'
    caption = f"{escape(figure.title)}<br><span>{escape(figure.caption)}</span>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
