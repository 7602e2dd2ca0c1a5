"""Reading the audit page as a browser would: only what may be in it, every element closed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "rect"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "p",
    "h1", "h2", "h3", "ul", "ol", "li", "dl", "div", "dt", "dd", "table", "thead", "tbody", "tr",
    "th", "td", "span", "strong", "code", "mark", "details", "summary", "svg", "rect",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "aria-labelledby", "id", "class", "role",
    "aria-label", "tabindex", "scope", "data-label", "viewbox", "preserveaspectratio",
    "aria-hidden", "focusable", "width", "height", "x", "open", "colspan",
}  # fmt: skip


class Reader(HTMLParser):
    """The elements of a page, checked for being closed, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(html: str) -> Reader:
    reader = Reader(html)
    assert reader.open == []
    assert reader.tags <= TAGS, reader.tags - TAGS
    assert reader.attributes <= ATTRIBUTES, reader.attributes - ATTRIBUTES
    assert len(set(reader.ids)) == len(reader.ids)
    return reader
