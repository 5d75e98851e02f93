"""`toco analyze step`: the panels and numbers of the next training step."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import compilation_cache, make_devkit, make_run

from toco_jax.cli import commands
from toco_jax.config import with_values
from toco_jax.data import open_configured
from toco_jax.data.pipeline import configured_batches
from toco_jax.run import runs
from toco_jax.training import opened


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("opened")

    def config_of(variant):
        crops = {"local_crop_size": 16, "num_local_crops": 3}
        # Without the segmentation, which takes longest to compile.
        never = {"seg": ((0, 0.0),), "reg": ((0, 0.0),)}
        changed = {"data": {"train_split": "train"}, "loss_weights": never}
        return with_values(voc_config(variant), **changed, **crops)

    with compilation_cache():
        yield make_run(folder / "run", config_of, make_devkit(folder))


def test_a_step_is_drawn_and_told(run, tmp_path):
    commands.run("analyze", ["step", str(run), f"--out={tmp_path}", "--images=1"])
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["step"] == 1
    assert set(found["terms"]) == {"cls", "cls_aux", "ptc", "ctc", "total"}
    config = runs.load(run).config
    source = open_configured(config, part="train", masks=False)
    batches = configured_batches(source, config, start_step=0, num_threads=0)
    expected = next(iter(batches))
    batches.close()
    # A whole group.
    assert [about["name"] for about in found["images"]] == expected["name"][:2]
    for i, about in enumerate(found["images"]):
        assert about["valid_box"] == expected["valid_box"][i].tolist()
        assert sum(about["pairs"].values()) == 16**2
        for name in ("regions", "pseudo_label_aux"):
            assert sum(about[name].values()) == pytest.approx(1, abs=1e-3)
        assert len(about["crops"]) == 3
        assert all(-1 <= crop["similarity"] <= 1 for crop in about["crops"])
    with Image.open(tmp_path / "step.png") as picture:
        assert picture.width == 6 + (len(opened.PANELS) - 3) * (150 + 6)


def test_the_similarity_of_crops_is_a_mean_over_the_global_views():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((3, 2, 5)), rng.standard_normal((2, 2, 5))
    found = np.asarray(opened.cosine(*(jax.numpy.float32(x) for x in (student, teacher))))
    for b in range(2):
        for n in range(3):
            each = [
                student[n, b] @ t / np.linalg.norm(student[n, b]) / np.linalg.norm(t)
                for t in teacher[:, b]
            ]
            assert found[b, n] == pytest.approx(np.mean(each), abs=1e-5)


def test_labels_are_told_and_drawn(monkeypatch):
    image, label = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), np.int32)
    label[:8], label[8:24] = 255, 2
    row = {"image": image, "view2": image, "valid_box": np.array([0, 32, 0, 32])}
    row |= {"cls_label": np.array([0.0, 1.0]), "pseudo_label": label}
    row["seg_logits"] = np.eye(3)[np.array([[0, 1], [2, 2]])]
    about = opened.told(row, ("cat", "dog"))
    assert about["pseudo_label"] == {"background": 0.25, "dog": 0.5, "ignored": 0.25}
    assert (opened.PANELS["refined pseudo label"](row)[8:24] == (0, 128, 0)).all()
    segmented = opened.PANELS["segmentation"](row)
    assert tuple(segmented[0, -1]) == (128, 0, 0) and tuple(segmented[-1, 0]) == (0, 128, 0)
    legends, grid = [], opened.drawing.grid
    monkeypatch.setattr(
        opened.drawing, "grid", lambda *x, **kw: (legends.append(kw), grid(*x, **kw))[1]
    )
    picture = opened.sheet([row], [{"name": "a"} | about], opened.label_names(("cat", "dog")))
    assert picture.width == 6 + 4 * (150 + 6)
    assert [legends[0]["names"][k] for k in legends[0]["labels"]] == [
        *("background", "cat", "dog", "ignored")
    ]


def test_affinity_and_similarity_have_one_colour_each():
    tokens = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    row = {
        "affinity_label": np.array([[255, 1, 0], [1, 255, 0], [0, 0, 255]]),
        "patch_tokens": tokens,
    }
    row["affinity"] = np.array([[1.0, 0.0]])
    affinity = opened.PANELS["affinity of patches"](row)
    similarity = opened.PANELS["similarity of patches"](row)
    same, different, ignored = (affinity[i, j].tolist() for i, j in ((0, 1), (0, 2), (0, 0)))
    assert same == similarity[0, 1].tolist() == similarity[0, 0].tolist()
    predicted = opened.PANELS["predicted affinity"](row)
    assert predicted[0].tolist() == [same, different]
    assert different == similarity[0, 2].tolist() and ignored not in (same, different)


def test_what_no_term_needs_has_no_panel():
    image = np.full((32, 32, 3), 90, np.uint8)
    row = {"image": image, "view2": image, "valid_box": np.array([0, 32, 0, 32])}
    row["cls_label"] = np.array([0.0, 1.0])
    about = opened.told(row, ("cat", "dog"))
    assert about == {"classes": ["dog"], "valid_box": [0, 32, 0, 32]}
    picture = opened.sheet([row], [{"name": "a"} | about], {0: "background"})
    assert picture.width == 6 + 2 * (150 + 6)
