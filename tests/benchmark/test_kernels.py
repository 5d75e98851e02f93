"""The sub-commands of single parts: lattice, CRF, PAR, attention and the input pipeline."""

import jax
import pytest

from toco_jax.benchmark import (
    attention,
    measure,
)


def test_lattice(run):
    sizes = ["--size", 32, "--channels", 2, "--batch", 2]
    rows, (share,) = run("lattice", *sizes, "--together").values()
    assert [row["part"] for row in rows] == ["build", "apply", "build and apply, 2 at a time"]
    assert all(row["ms per image"] > 0 and row["CPU ms per image"] > 0 for row in rows)
    assert 32 < share["vertices"] <= 6 * 32**2
    assert share["vertices per pixel"] == pytest.approx(share["vertices"] / 32**2)


def test_crf(run):
    sizes = ["--height", 32, "--width", 48, "--classes", 5, "--iterations", 2, "--batch", 2]
    ((title, rows),) = run("crf", *sizes, "--top_k", 4).items()
    assert "32 x 48, 5 classes, 2 iterations, batch 2" in title
    exact, approximate = rows
    assert exact["labels changed"] == 0 and approximate["labels changed"] < 0.1
    assert approximate["classes"] == "top 4" and min(r["s per image"] for r in rows) > 0


def test_par(run):
    ((title, rows),) = run("par", "--size", 16, "--channels", 2, 3, "--batch", 2).items()
    assert "16 x 16, batch 2" in title
    assert [row["maps"] for row in rows] == [2, 3]
    assert all(row["ms per image"] > 0 for row in rows)


def test_attention(run, monkeypatch):
    monkeypatch.setattr(measure.matrix_rate, "__kwdefaults__", {"size": 64, "repeats": 1})
    sizes = ["--tokens", 5, "--width", 16, "--heads", 2, "--batch", 3]
    ((title, rows),) = run("attention", *sizes).items()
    assert "width 16, 2 heads, batch 3, float32" in title
    # There is no cuDNN here.
    timed = [(row["tokens"], row["implementation"], row["pass"]) for row in rows]
    assert timed == [
        (5, name, part) for name in ("xla", "in_parts") for part in ("forward", "gradient")
    ]
    assert all(row["ms"] > 0 and row["% of a matrix product"] > 0 for row in rows)


class Gpu:
    """JAX with a GPU as its devices."""

    def __getattr__(self, name):
        return getattr(jax, name)

    def default_backend(self):
        return "gpu"


def test_attention_by_cudnn(run, monkeypatch, emulated_cudnn):
    monkeypatch.setattr(measure.matrix_rate, "__kwdefaults__", {"size": 64, "repeats": 1})
    sizes = ["--tokens", 5, "--width", 16, "--heads", 2, "--batch", 3]
    monkeypatch.setattr(attention, "jax", Gpu())
    # The stand-in for cuDNN, JAX's own attention, promotes implicitly in its gradient.
    with jax.numpy_dtype_promotion("standard"):
        ((title, rows),) = run("attention", *sizes).items()
    assert "bfloat16" in title
    assert [row["implementation"] for row in rows][-2:] == ["cudnn", "cudnn"]
    assert set(emulated_cudnn) == {6}


def test_pipeline(run):
    ((title, rows),) = run("pipeline", "--images", 2, "--size", 64).items()
    assert "64 px views of 500 x 375 JPEGs" in title
    ours, uint8, published = rows
    assert ours["times ours"] == 1 and min(published["times ours"], uint8["times ours"]) > 1
    for row in rows:
        assert row["ms per image"] == pytest.approx(1000 / row["images per CPU-second"])
