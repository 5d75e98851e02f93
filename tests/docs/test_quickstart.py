"""The notebook runs, from photos and tags to masks, and holds no results of a machine."""

import ast
import json

import numpy as np
import pages
import pytest
from conftest import TINY_RUN
from PIL import Image

NOTEBOOK = pages.REPOSITORY / "docs" / "quickstart.ipynb"
TAGS = ("cat", "dog", "cow", "bird")


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def run(notebook, **parameters):
    """Runs the cells in order, with other parameters, and returns their variables."""
    variables = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            run_cell("".join(cell["source"]), variables)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert variables.keys() > parameters.keys()
                variables |= parameters
    return variables


def run_cell(source, variables):
    """Runs a cell, and draws the picture that it ends with, as Jupyter does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), variables)
    if last:
        shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), variables)
        assert shown._repr_png_() if isinstance(shown, Image.Image) else shown


def test_it_leads_from_tags_to_masks(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rows = ["file,label"]
    # As many classes as the tiny run of other tests, and as many in one photo, share its programs.
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:02}.png")
        rows.append(f"{i:02}.png,{';'.join(TAGS[i % 4 : i % 4 + 3])}")
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows))
    left_out = ("num_classes", "data.source", "data.train_split")
    settings = [f"{key}={value}" for key, value in TINY_RUN.items() if key not in left_out]
    settings += ["data.val_fraction=0.5", "total_steps=2", "warmup_steps=1"]
    seen = run(notebook, configuration="folder", settings=settings)
    assert seen["results"]["step"] == 2 and 0 <= seen["results"]["cls_f1"] <= 100
    assert seen["segmenter"].class_names == tuple(sorted(TAGS))
    assert len(seen["masks"]) == 12
    for i, mask in enumerate(seen["masks"]):
        assert (np.asarray(Image.open(f"masks/{i:02}.png")) == mask).all()
    assert mask.shape == (32, 32) and mask.max() <= len(TAGS)


def test_it_holds_no_results(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
