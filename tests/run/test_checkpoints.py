"""Checkpoints on a disk that is full, damaged or gone."""

import collections
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from toco_jax.run import saved, stored
from toco_jax.run.checkpoints import CheckpointError, Checkpoints
from toco_jax.run.state import TrainState
from toco_jax.runtime import processes

META = {"seconds": 1.5, "evaluation": None}


def make_state(step, size=200):
    params = {
        "encoder": {"kernel": step + jnp.arange(size, dtype=jnp.float32)},
        "bias": jnp.ones(3),
    }
    return TrainState(
        step=jnp.int32(step),
        params=params,
        extra={"proj_head": jax.tree.map(lambda x: x / 2, params)},
        opt_state=(params, {"count": jnp.int32(step)}),
        key=jax.random.key(7),
    )


def assert_same(found, expected):
    for name in ("step", "params", "extra", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(expected, name))
    assert (jax.random.key_data(found.key) == jax.random.key_data(expected.key)).all()


def save(run, *steps):
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text('{"backbone": "deit_tiny", "num_classes": 1}')
    store = Checkpoints(run)
    for step in steps:
        store.save(make_state(step), meta=META)
    store.close()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run with the checkpoints of steps 1 and 2."""
    run = tmp_path_factory.mktemp("checkpoints") / "run"
    save(run, 1, 2)
    return run


def restore(run):
    store = Checkpoints(run)
    state, meta = store.restore(make_state(0))
    store.close()
    assert meta == META
    return state


def test_states_are_restored_to_the_bit(two_steps):
    assert_same(restore(two_steps), make_state(2))


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "flipped": lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 4]) + c[len(c) // 2 + 1 :],
    "deleted": lambda content: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_happens_to_a_file_of_the_newest_one_is_noticed(two_steps, tmp_path, damage):
    kinds = collections.Counter()
    newest = two_steps / "checkpoints" / "2"
    files = [path.relative_to(two_steps) for path in newest.rglob("*") if path.is_file()]
    for number, name in enumerate(files):
        run = shutil.copytree(two_steps, tmp_path / str(number))
        content = DAMAGES[damage]((run / name).read_bytes())
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content)
        step = int(restore(run).step)
        assert_same(restore(run), make_state(step))
        assert (run / "checkpoints" / "2.damaged").exists() == (step == 1)
        kinds[step] += 1
    assert kinds[1] >= 5  # the others are of no use to the reader


def damage_step(run, step):
    file = run / "checkpoints" / str(step) / "state" / "manifest.ocdbt"
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_checkpoint_is_named_and_set_aside(two_steps, tmp_path, capsys):
    run = shutil.copytree(two_steps, tmp_path / "run")
    damage_step(run, 2)
    message = r"2 is damaged: state/manifest.ocdbt holds other .* another step \(there are 1\)"
    with pytest.raises(CheckpointError, match=message):
        saved.load_run(run)
    assert saved.load_run(run / "checkpoints" / "1")[1]["step"] == 1
    assert_same(restore(run), make_state(1))
    assert "renamed to 2.damaged, and training goes on from an older one" in capsys.readouterr().out
    save(run, 2)  # made again
    assert_same(restore(run), make_state(2))


def test_without_a_whole_checkpoint_nothing_is_renamed(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    for step in (1, 2):
        damage_step(run, step)
    with pytest.raises(CheckpointError, match=r"no other checkpoint of .* is whole: restore one"):
        restore(run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "2"}


def test_a_checkpoint_of_another_network_is_refused(two_steps):
    store = Checkpoints(two_steps)
    message = r"network: extra/proj_head/encoder/kernel is float32\[200\] there and float32\[300\]"
    with pytest.raises(CheckpointError, match=message):
        store.restore(make_state(0, size=300))
    store.close()


def test_a_full_disk_is_a_line_and_the_next_save_tries_again(tmp_path, capsys, monkeypatch):
    save(tmp_path, 1)
    store = Checkpoints(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        store.save(make_state(2), meta=META)
        assert "checkpoint of step 2 in" in (line := capsys.readouterr().err)
        assert line.count("\n") == 1 and "are free): training goes on" in line
    store.save(make_state(3), meta=META)
    store.close()
    assert_same(restore(tmp_path), make_state(3))


def test_a_disk_that_is_full_for_one_process_is_a_line_in_all(tmp_path, capsys, monkeypatch):
    save(tmp_path, 1)
    store = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "gather", lambda content: [content, b"9 MB are free"])
        store.save(make_state(2), meta=META)
    assert "of step 2 in" in (line := capsys.readouterr().err) and "9 MB are free" in line
    store.save(make_state(3), meta=META)
    store.close()
    assert_same(restore(tmp_path), make_state(3))


def test_one_of_several_processes_that_cannot_save_ends_with_a_sentence(tmp_path, monkeypatch):
    save(tmp_path, 1)
    store = Checkpoints(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("no room\nat all")

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    monkeypatch.setattr(processes, "gather", lambda content: [content, b""])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(CheckpointError, match=r"of step 2 .*\(no room at all\): make room"):
        store.save(make_state(2), meta=META)


@pytest.mark.parametrize(
    ("where", "name"),
    [(ocp.CheckpointManager, "save"), (stored, "write_checksums")],
    ids=["at once", "in the background"],
)
def test_a_last_save_that_fails_is_an_error_and_the_one_before_stays(
    tmp_path, monkeypatch, where, name
):
    save(tmp_path, 1)
    store = Checkpoints(tmp_path)

    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: no room\nat all")

    closed = []
    close = ocp.CheckpointManager.close
    monkeypatch.setattr(
        ocp.CheckpointManager, "close", lambda self: (close(self), closed.append(self))
    )
    monkeypatch.setattr(where, name, fail)
    store.save(make_state(2), meta=META)
    with pytest.raises(CheckpointError, match=r"of step 2 .* not saved \(.*no room at all\)"):
        store.close()
    assert len({*map(id, closed)}) == 2  # of the save that failed, and that of the next one
    assert int(restore(tmp_path).step) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_what_is_left_of_a_deletion_or_a_save_is_cleared_at_the_next_start(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    for name in ("deleted/0", "3.orbax-checkpoint-tmp"):
        (run / "checkpoints" / name).mkdir(parents=True)
    assert int(restore(run).step) == 2
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "2"}


def test_a_run_whose_folder_is_gone_is_not_made_anew(tmp_path):
    save(tmp_path / "run", 1)
    store = Checkpoints(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"config.json is gone: restore the run's folder"):
        store.save(make_state(2), meta=META)
    assert not (tmp_path / "run").exists()


def test_parameters_that_are_not_finite_are_refused_by_name(tmp_path):
    save(tmp_path, 1)
    store, state = Checkpoints(tmp_path), make_state(2)
    params = state.params | {"bias": jnp.array([1, jnp.nan, 1])}
    store.save(state.replace(params=params), meta=META)
    store.close()
    with pytest.raises(
        CheckpointError, match=r"step 2 in .* 1 arrays, the first params/bias: .* 1, 2"
    ):
        saved.load_run(tmp_path)
    assert saved.load_run(tmp_path / "checkpoints" / "1")[1]["step"] == 1
