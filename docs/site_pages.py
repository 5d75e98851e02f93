"""Adds to the documentation's site the pages that GitHub shows elsewhere: README, CHANGELOG, ...

`mkdocs.yml` names this file as a hook. Links of these files lead from the root of the repository,
and are rewritten to lead from `docs`. The notebook becomes a page, too.
"""

import json
import pathlib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
# Files in the root, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
}


def on_files(files, config):
    """Is called by mkdocs with the files of the site."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for other, target in PAGES.items():
            text = text.replace(f"]({other}", f"]({target}")
        text = text.replace("](docs/", "](").replace(".ipynb)", ".md)")
        files.append(File.generated(config, page, content=text))
    for notebook in (ROOT / "docs").glob("*.ipynb"):
        page = notebook.with_suffix(".md").name
        files.append(File.generated(config, page, content=_as_page(notebook)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Is called by mkdocs with the text of each page."""
    return markdown.replace(".ipynb)", ".md)")


def _as_page(notebook):
    """Returns the cells of a notebook as Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if is_code else text for text, is_code in texts)
