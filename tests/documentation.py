"""The pages a reader sees, and the few things of Markdown that tests look for in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
"""What is written for users."""


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(REPOSITORY))


def code_blocks(page: Path, *languages: str) -> list[str]:
    """The page's fenced blocks of these languages, in order."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if language in languages]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def tables(page: Path) -> list[list[list[str]]]:
    """The page's tables, each a list of rows, each a list of cells; the first row is the heading."""
    found: list[list[list[str]]] = []
    before = ""
    for line in prose(page).splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not re.fullmatch(r"[|\s:-]+", line) or not found[-1]:
                found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        before = line
    return found


def names_in_first_column(page: Path, heading: str) -> list[str]:
    """The code words in the first column of every table of the page whose first heading is ``heading``."""
    return [
        word
        for table in tables(page)
        if table[0][0].strip("`") == heading
        for row in table[1:]
        for word in re.findall(r"`([^`]+)`", row[0])
    ]


def anchors(page: Path) -> set[str]:
    """What `#...` may follow a link to the page, as code hosts make it of a heading."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    """Each link's file and anchor; the anchor may be empty."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        yield (page.parent / path if path else page), anchor
