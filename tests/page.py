"""A report as a reader of HTML that knows nothing of how it was made sees it."""

from html.parser import HTMLParser
from typing import Any

from reports.blocks import unpack

# What ends a line of a page's text; spaces stand between the cells of a row.
_LINES = frozenset(
    {"p", "h1", "h2", "h3", "h4", "li", "tr", "dt", "dd", "div", "section", "summary", "caption"}
    | {"figcaption", "option", "legend", "label"}
)
_UNSEEN = frozenset({"script", "style", "template"})
_CELLS = frozenset({"td", "th", "text", "span", "svg", "b"})


class Page(HTMLParser):
    """A page as a parser that knows nothing of how it was made sees it."""

    VOID = frozenset({"meta", "input", "link", "img", "br", "wbr", "base"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []  # by the elements around them
        self.open: list[str] = []
        self.told: list[str] = []  # what is seen, with ends of lines
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        self._told(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._told(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))
        if not _UNSEEN & set(self.open):
            self.told.append(data.replace("\n", " "))

    def _told(self, tag: str) -> None:
        self.told.append("\n" if tag in _LINES else " " if tag in _CELLS else "")

    @property
    def text(self) -> str:
        return "".join(text for place, text in self.texts if not _UNSEEN & set(place))

    @property
    def blocks(self) -> list[Any]:
        """What the compressed blocks hold: the index, then rows of prompts."""
        return [unpack(text) for place, text in self.texts if "template" in place and text.strip()]

    @property
    def rows(self) -> list[list[Any]]:
        return [row for block in self.blocks[1:] for row in block]

    def shown(self) -> str:
        """The text a line per block, then the first two prompts with all that was answered."""
        lines = "".join(self.told).split("\n")
        kept = [" ".join(line.split()) for line in lines]
        return "\n".join([line for line in kept if line] + list(_answers(self.blocks))) + "\n"


def _answers(blocks: list[Any]) -> Any:
    index = blocks[0]
    for number, (prompt, name, texts, which, cuts) in enumerate(blocks[1][:2]):
        yield f"prompt {number + 1}: {prompt} [{name}]"
        for cell, (text, cut) in enumerate(zip(which, cuts, strict=True)):
            at, slot = divmod(cell, len(index["slots"]))
            who, seed = index["slots"][slot]
            words = index["words"][number * len(which) + cell]
            said = texts[text] if text >= 0 else "-"
            if cut:
                units = said.encode("utf-16-le")
                within, beyond = units[: 2 * cut], units[2 * cut :]
                said = f"{within.decode('utf-16-le')}[{beyond.decode('utf-16-le')}]"
            limit = index["limits"][at]
            answerer = index["answerers"][who]["name"]
            yield f"  {limit}: {answerer}, seed {seed}, {words} words: {' '.join(said.split())}"
