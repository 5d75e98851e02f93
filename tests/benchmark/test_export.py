"""The sub-command that measures exported files."""

from toco_jax.export import stablehlo


def test_export(run_tiny, monkeypatch):
    monkeypatch.setattr(stablehlo, "PLATFORMS", ("cpu",))
    keys = ["num_classes=3", "decoder_width=8"]
    ((title, rows),) = run_tiny("export", *keys, "--batch", 2).items()
    assert "32 pixels, batch 2" in title
    here, *files = rows
    assert here["file"] == "this process" and here["% of labels equal"] == 100
    assert [row["file"].split(",")[0] for row in files] == ["StableHLO", "ONNX", "ONNX", "ONNX"]
    assert all(row["MiB"] > 0 and row["s to load"] > 0 and row["ms per image"] > 0 for row in files)
    of_jax, whole, half, native = files
    assert min(row["% of labels equal"] for row in (of_jax, whole, native)) > 99.9
    assert half["MiB"] < 0.8 * whole["MiB"] and half["% of labels equal"] > 90
