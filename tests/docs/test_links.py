"""What the pages of the documentation name is there: pages, headings, pictures, files, modules."""

import ast
import importlib
import re

import pages
import pytest
import yaml

REPOSITORY = pages.REPOSITORY
# The first folders of paths that pages name.
FOLDERS = ("toco_jax/", "configs/", "launch/", "tests/", "docs/")

each_page = pytest.mark.parametrize("path", pages.PAGES, ids=pages.name_of)


@each_page
def test_links_lead_somewhere(path):
    for link in pages.read(path).links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        other = (path.parent / target).resolve() if target else path
        assert other.is_file() and other.is_relative_to(REPOSITORY), link
        # Pages in `docs` are a site of their own; README and its neighbours are added to it.
        assert path.parent in (REPOSITORY, other.parent), link
        assert not anchor or anchor in pages.read(other).anchors, link


@each_page
def test_files_that_are_named_are_there(path):
    for span in pages.read(path).spans:
        if span.startswith(FOLDERS) and " " not in span and "NAME" not in span:
            assert any(REPOSITORY.glob(span.rstrip("/"))), span


def test_files_in_the_figure_are_there():
    figure = (REPOSITORY / "docs" / "figure.svg").read_text()
    named = re.findall(r'class="file"[^>]*>([^<]*)<', figure) + re.findall(r"\w+/\w+\.py", figure)
    assert len(named) > 10
    assert not [name for name in named if not (REPOSITORY / "toco_jax" / name).exists()]


@each_page
def test_python_on_the_pages_is_python_and_imports_what_there_is(path):
    for language, text in pages.read(path).blocks:
        if language != "python":
            continue
        plain = re.sub(r"\{\{.*?\}\}", "None", text)  # mmengine's own notation
        for node in ast.walk(ast.parse(plain)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("toco_jax"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_api_that_is_listed_is_there():
    text = (REPOSITORY / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: (toco_jax[\w.]*)\.(\w+)$", text, re.MULTILINE)
    assert listed
    for parent, name in listed:
        module = importlib.import_module(parent)
        if not hasattr(module, name):
            importlib.import_module(f"{parent}.{name}")


def test_every_page_has_a_place_in_the_site():
    def pages_of(nav):
        for entry in nav:
            value = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from pages_of(value) if isinstance(value, list) else [value]

    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    placed = list(pages_of(site["nav"]))
    written = [path.name for path in pages.PAGES if path.parent.name == "docs"]
    # Pages that `docs/site_pages.py` makes of files elsewhere.
    made = ["index.md", "contributing.md", "changelog.md", "quickstart.md"]
    assert sorted(placed) == sorted([*written, *made])


def test_the_front_page_is_short_and_leads_to_every_page():
    front = pages.read(REPOSITORY / "README.md")
    assert front.path.read_text().count("\n") <= 150
    linked = {link.partition("#")[0] for link in front.links}
    assert {pages.name_of(path) for path in pages.PAGES} - {"README.md"} <= linked


def test_the_citation_names_paper_and_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "Token Contrast" in citation["preferred-citation"]["title"]
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'\nversion = "{citation["version"]}"\n' in project
