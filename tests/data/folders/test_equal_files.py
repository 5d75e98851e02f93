import numpy as np

from toco_jax.data.folders.equal_files import equal_files


def test_groups_of_equal_content(tmp_path):
    rng = np.random.default_rng(0)
    long = rng.bytes(20_000)
    contents = [long, b"x" + long[1:], b"", long, b"short", b"", b"short", long[:-1] + b"x"]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    paths.append(tmp_path / "missing")
    # Equal ends do not make files equal, nor do equal lengths; empty files are broken ones.
    assert equal_files(paths) == [[0, 3], [4, 6]]
    assert equal_files(paths[1:3]) == equal_files([]) == []


def test_files_of_other_lengths_are_not_opened(tmp_path, monkeypatch):
    paths = [tmp_path / str(i) for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes(i + 1))
    monkeypatch.setattr("pathlib.Path.open", lambda *_: 1 / 0)
    assert equal_files(paths) == []
