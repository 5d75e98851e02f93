"""Files that others may read, written whole; folders that cannot be written to, told at once."""

import errno
import os
import stat

import pytest

from toco_jax.runtime.outputs import (
    OutputError,
    check_file,
    make_folder,
    whole_folder,
    write_atomically,
)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_mode_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "x.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o666 & ~mask


def test_old_file_stays_where_the_new_one_fails(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "from", None, "to")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as failed:
        write_atomically(path, b"new")
    assert failed.value.filename == str(path) and failed.value.filename2 is None
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_in_any_locale(tmp_path):
    write_atomically(tmp_path / "x", "猫")
    assert (tmp_path / "x").read_bytes() == "猫".encode()


def test_a_name_as_long_as_a_file_system_takes(tmp_path):
    write_atomically(tmp_path / ("x" * 255), "text")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text"]


def test_folder_that_takes_no_file(tmp_path):
    assert make_folder(tmp_path / "a" / "b", "--out").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for folder in ("/proc", str(tmp_path / "file" / "x")):
        with pytest.raises(OutputError, match=f"folder {folder} .* give another --out"):
            make_folder(type(tmp_path)(folder), "--out")
    for folder in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(OutputError, match=f"{tmp_path / 'file'} is a file"):
            make_folder(folder, "--out")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "deep" / "x") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []
    with whole_folder(tmp_path / "deep" / "x") as folder:
        (folder / "whole").touch()
        assert not (tmp_path / "deep" / "x").exists()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        *("deep", "deep/x", "deep/x/whole")
    ]


def test_a_file_is_tried_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"is a folder: give the name of a file as --report"):
        check_file(tmp_path, "--report")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"folder .*file .*give another --report"):
        check_file(tmp_path / "file" / "report.json", "--report")
    check_file(tmp_path / "new" / "report.json", "--report")
    assert list((tmp_path / "new").iterdir()) == []
