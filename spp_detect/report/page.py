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
.wide { grid-template-columns: 1fr }
.wide img { height: auto; max-height: 48rem }
"""


class Figure(NamedTuple):
    """A picture of a page: its address (quoted), its title, what it shows."""

    address: str
    title: str
    caption: str


def render_page(
    title: str,
    facts: dict[str, str],
    sections: Sequence[tuple[str, Sequence[Figure]]],
    notes: Sequence[str] = (),
) -> str:
    """Render a page: a title, facts in large type, sections of figures, notes at the end.

    A section of one figure shows it wide.
    """
    terms = "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()
    )
    body = [f"<h1>{escape(title)}</h1>", f"<dl>{terms}</dl>"]
    for heading, figures in sections:
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


def _render_figure(figure: Figure) -> str:
    image = f'<img loading="lazy" src="{escape(figure.address)}" alt="{escape(figure.title)}">'
    caption = f"{escape(figure.title)}<br><span>{escape(figure.caption)}</span>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
