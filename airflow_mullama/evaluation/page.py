"""Sections as one HTML file that needs nothing else: no script, no network, every value escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from airflow_mullama.evaluation.sections import Section
from airflow_mullama.redaction.foreign_text import printable

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
td { overflow-wrap: anywhere; max-width: 34rem; white-space: pre-wrap; }
p.note { color: #777; max-width: 60rem; }
""".strip()


def html_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title, subtitle: its heading and the line below.
        sections: its tables.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1><p class=note>{_text(subtitle)}</p>",
        *map(_section, sections),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in section.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    notes = "".join(f"<p class=note>{_text(note)}</p>" for note in section.notes)
    table = f"<div class=scroll><table><tr>{head}</tr>\n{rows}</table></div>" if section.rows else ""
    return f"<h2>{_text(section.title)}</h2>{table}{notes}"


def _text(text: str) -> str:
    return escape(printable(text))
