"""Adds to the documentation's site the pages that GitHub shows elsewhere: README, CHANGELOG, ...

`mkdocs.yml` names this file as a hook. Links of these files lead from the root of the repository,
and are rewritten to lead from `docs`.
"""

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
        content = text.replace("](docs/", "](")
        files.append(File.generated(config, page, content=content))
    return files
