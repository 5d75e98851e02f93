"""`toco analyze`: the numbers are those of the encoder, and what fails is named."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from tiny_run import compilation_cache, make_run, photo

from toco_jax.cli import commands
from toco_jax.inference.analysis.encoder import PhotoEncoder
from toco_jax.inference.analysis.figures import attention_picture
from toco_jax.models.network import normalize
from toco_jax.models.vit import ViT
from toco_jax.run import runs
from toco_jax.runtime.errors import UserError, WeightsError


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("analysis")
    with compilation_cache():
        yield make_run(folder / "run", voc_config, folder)


@pytest.fixture(scope="module")
def encoder(run):
    return PhotoEncoder(run)


@pytest.fixture(scope="module")
def encoded(run):
    """A photo, and what the encoder makes of its whole patches without padding."""
    loaded, image = runs.load(run), photo((26, 35), 0)
    vit = ViT(loaded.model.backbone, loaded.model.grid)
    whole = normalize(image[None, :24, :32])
    out = jax.jit(vit.apply)({"params": loaded.params["encoder"]}, whole)
    return image, jax.device_get(out)


def test_similarity_of_a_photo(encoder, encoded):
    image, out = encoded
    tokens = [out[f"block_{i}"]["tokens"][0, 1:] for i in range(2)] + [out["patch_tokens"][0]]
    expected = []
    for patches in tokens:
        unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
        expected.append(np.mean([a @ b for i, a in enumerate(unit) for b in np.delete(unit, i, 0)]))
    np.testing.assert_allclose(encoder.similarity(image), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_attention_over_a_photo(encoder, encoded):
    image, out = encoded
    row = out["block_1"]["attention"][0, :, 0].mean(axis=0)
    found = encoder.attention(image)
    np.testing.assert_allclose(found.patches, row[1:].reshape(3, 4), atol=1e-5)
    np.testing.assert_allclose(found.leading, row[:1], atol=1e-5)
    assert np.ptp(row[1:]) > 0.01


def test_local_crops_are_encoded_by_themselves(run, encoder, encoded):
    image, out = encoded
    crops = encoder.crops(image, encoder.attention(image))
    # As large as the photo is high, at three places of its width.
    assert [crop.box for crop in crops] == [(0, 24, x, x + 24) for x in (0, 4, 8)]
    loaded = runs.load(run)
    vit = ViT(loaded.model.backbone, loaded.model.grid)
    cut = image[:24, 4:28]
    alone = jax.jit(vit.apply)({"params": loaded.params["encoder"]}, normalize(cut[None]))
    row = alone["block_1"]["attention"][0, :, 0].mean(axis=0)
    np.testing.assert_array_equal(crops[1].pixels, cut)
    np.testing.assert_allclose(crops[1].attention.patches, row[1:].reshape(3, 3), atol=1e-5)
    token, whole = alone["cls_token"][0], out["cls_token"][0]
    cosine = float(token @ whole / np.linalg.norm(token) / np.linalg.norm(whole))
    # A network that was never trained sees little difference.
    assert crops[1].similarity == pytest.approx(cosine, abs=2e-6) and cosine < 1 - 1e-4
    assert np.abs(np.diff([crop.similarity for crop in crops])).min() > 1e-5


def test_the_encoder_of_a_file_of_weights(run, encoder, tmp_path):
    file, image = tmp_path / "encoder.npz", photo((24, 36), 0)
    arrays = traverse_util.flatten_dict({"encoder": runs.load(run).params["encoder"]}, sep="/")
    np.savez(file, **arrays)
    with pytest.raises(UserError, match=r"encoder\.npz is a file of weights: .*--backbone="):
        PhotoEncoder(file)
    spelt = "width=24,depth=2,heads=2,patch=8"
    with pytest.raises(WeightsError, match="do not fit"):
        PhotoEncoder(file, backbone=spelt.replace("24", "48"))
    found = PhotoEncoder(file, backbone=spelt, max_side=36).similarity(image)
    np.testing.assert_allclose(found, encoder.similarity(image), atol=1e-5)


def test_a_network_of_nan_is_refused(encoder, monkeypatch):
    broken = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), encoder._params)
    monkeypatch.setattr(encoder, "_params", broken)
    with pytest.raises(UserError, match="computes tokens that are not finite"):
        encoder.similarity(photo((24, 36), 0))
    with pytest.raises(UserError, match="computes tokens that are not finite"):
        encoder.attention(photo((24, 36), 0))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo((24, 36), 0)).save(folder / "a.png")
    Image.fromarray(photo((60, 90), 1)).save(folder / "b.png")
    return folder


def analyze(*words):
    """The exit code of `toco analyze`."""
    try:
        commands.run("analyze", [str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_two_runs_in_one_plot(run, encoder, photos):
    words = ["similarity", run, photos, f"--against={run}", f"--out={photos}"]
    assert analyze(*words) == 0
    found = json.loads((photos / "similarity.json").read_text())
    assert found["files"] == [str(photos / "a.png"), str(photos / "b.png")]
    first, second = found["runs"]
    assert first == second
    each = np.array([[*entry["blocks"], entry["after_norm"]] for entry in first["photos"]])
    images = [photo((24, 36), 0), photo((60, 90), 1)]
    np.testing.assert_allclose(each, [encoder.similarity(x) for x in images], atol=1e-6)
    mean = [*first["blocks"], first["after_norm"]]
    np.testing.assert_allclose(mean, each.mean(axis=0), atol=1e-6)
    with Image.open(photos / "similarity.png") as picture:
        colours = picture.getcolors(10**6)
    assert {(31, 92, 180), (214, 84, 16)} <= {colour for _, colour in colours}
    # The result of the first call is no photo of the second.
    assert analyze(*words) == 0
    assert json.loads((photos / "similarity.json").read_text()) == found


def test_what_cannot_be_measured_is_named(run, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"nothing")
    (photos / "clip.mp4").write_bytes(b"nothing")
    Image.fromarray(photo((9, 9), 0)).save(photos / "small.png")
    out = tmp_path / "out"
    assert analyze("similarity", run, photos, "nowhere.jpg", f"--out={out}") == 1
    found = json.loads((out / "similarity.json").read_text())
    assert [file.rsplit("/", 1)[-1] for file in found["files"]] == ["a.png", "b.png"]
    said = capsys.readouterr().err
    for entry, reason in zip(
        found["failed"],
        ("nowhere.jpg does not exist", "broken.jpg", "is a video", "no pair of patches"),
        strict=True,
    ):
        assert reason in entry["error"] and f"error: {entry['error']}\n" in said


@pytest.mark.parametrize("max_side", ["0", "-1"])
def test_a_side_out_of_range(run, photos, max_side):
    said = analyze("similarity", run, photos, f"--out={photos}", f"--max_side={max_side}")
    assert said == f"error: max_side={max_side} must be at least 1"


def test_without_a_photo_nothing_is_written(run, tmp_path):
    out = tmp_path / "out"
    said = analyze("similarity", run, "nowhere.jpg", f"--out={out}")
    assert said.startswith("error: none of the files could be used")
    assert not list(out.iterdir())


def test_files_of_other_origin_are_not_overwritten(run, photos):
    picture = photos / "similarity.png"
    picture.write_bytes(b"mine")
    said = analyze("similarity", run, photos / "a.png", f"--out={photos}")
    assert said.startswith(f"error: {picture} is there already and is not of this command")
    said = analyze("similarity", run, picture, f"--out={photos}")
    assert said.startswith(f"error: {picture} is a result of --out={photos}")
    assert picture.read_bytes() == b"mine"


def test_networks_of_different_depth_are_not_compared(run, photos, tmp_path, voc_config):
    other = tmp_path / "other"
    make_run(other, voc_config, tmp_path, depth=3)
    said = analyze("similarity", run, photos, f"--against={other}", f"--out={photos}")
    assert "has 2 blocks" in said and f"--against={other} 3" in said


def test_the_heat_map_lies_beside_the_photo():
    image = np.full((40, 60, 3), 100, np.uint8)
    patches = np.zeros((2, 3), np.float32)
    patches[0, 2] = 0.1
    picture = np.asarray(attention_picture(image, patches))
    assert picture.shape == (40, 126, 3)
    assert (picture[:, :60] == 100).all() and (picture[:, 60:66] == 255).all()
    heat = picture[:, 66:].astype(int)
    is_red = heat[..., 0] > heat[..., 2]
    assert is_red[:10, 50:].all() and not is_red[20:].any() and not is_red[:, :30].any()
    even = np.asarray(attention_picture(image, np.full((2, 3), 0.2, np.float32)))
    assert (even[:, 66:] == even[0, 66]).all()
    assert attention_picture(np.zeros((10, 2000, 3), np.uint8), patches).size == (2006, 5)


def test_attention_is_written_as_pictures_and_numbers(run, encoder, photos, capsys):
    (photos / "deep").mkdir()
    (photos / "a.png").rename(photos / "deep" / "a.png")
    (photos / "broken.jpg").write_bytes(b"nothing")
    words = ["attention", run, photos, f"--out={photos}"]
    assert analyze(*words) == 1
    found = json.loads((photos / "attention.json").read_text())
    assert found["complete"] and found["failed"][0]["file"] == str(photos / "broken.jpg")
    pictures = [entry["picture"] for entry in found["photos"]]
    assert pictures == ["attention/b.jpg", "attention/deep/a.jpg"]
    with Image.open(photos / pictures[1]) as picture:
        assert picture.size == (2 * 36 + 6 + 3 * (24 + 6), 24)
    expected = encoder.attention(photo((24, 36), 0))
    entry = found["photos"][1]
    np.testing.assert_allclose(entry["patches"], expected.patches, atol=1e-6)
    assert entry["grid"] == [3, 4] and entry["registers"] == []
    total = np.sum(entry["patches"]) + entry["class_token"]
    np.testing.assert_allclose(total, 1, atol=1e-5)
    crops = encoder.crops(photo((24, 36), 0), expected)
    assert [c["box"] for c in entry["crops"]] == [list(crop.box) for crop in crops]
    for told, crop in zip(entry["crops"], crops, strict=True):
        assert told["similarity"] == pytest.approx(crop.similarity, abs=1e-5)
        np.testing.assert_allclose(told["patches"], crop.attention.patches, atol=1e-6)
    # Results of earlier calls are no photos, those of the other figure neither.
    (photos / "similarity.json").touch()
    (photos / "similarity.png").write_bytes((photos / "b.png").read_bytes())
    assert analyze(*words) == 1
    assert "remark: 3 results of toco analyze are left out" in capsys.readouterr().err
    assert json.loads((photos / "attention.json").read_text()) == found
