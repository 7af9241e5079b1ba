"""A page's HTML as a browser reads it: tags in order with their attributes' names, links, text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

LEADING = frozenset({"href", "src", "action", "formaction", "data-poll", "data-events", "poster"})


@dataclass
class Markup:
    shape: list[tuple[str, ...]] = field(default_factory=list)
    """Each tag with its attributes' names; an end tag begins with `/`."""
    links: list[str] = field(default_factory=list)
    """Everything that the page links to, loads or sends to."""
    text: str = ""
    values: list[str] = field(default_factory=list)
    """The values of all attributes."""


def read_markup(html: str) -> Markup:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = Markup()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.shape.append((tag, *(name for name, _ in attrs)))
        for name, value in attrs:
            self.found.values.append(value or "")
            if name in {
                "href",
                "src",
                "action",
                "formaction",
                "data-poll",
                "data-events",
                "poster",
            }:
                self.found.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.found.shape.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.found.text += data
