"""The pages of the documentation, taken apart: links, anchors, blocks of code and code in text."""

import dataclasses
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Page:
    """A Markdown file.

    Attributes:
        path: the file.
        blocks: language ("" for none) and text of every fenced block.
        spans: every piece of code in the text.
        links: the target of every link and picture.
        anchors: what a link to a heading of the page may name after `#`, as GitHub makes them.
    """

    path: pathlib.Path
    blocks: list[tuple[str, str]]
    spans: list[str]
    links: list[str]
    anchors: set[str]


def read(path):
    text = path.read_text(encoding="utf-8")
    prose = _FENCE.sub("", text)
    return Page(
        path=path,
        blocks=_FENCE.findall(text),
        spans=[" ".join(span.split()) for span in _CODE.findall(prose)],
        links=_LINK.findall(_CODE.sub("code", prose)),
        anchors={_anchor(title) for title in _HEADING.findall(prose)},
    )


def _anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def name_of(path):
    return str(path.relative_to(REPOSITORY))
