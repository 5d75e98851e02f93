"""The tiny step on one device and on eight: a program of its own, because the number of virtual
devices is settled when JAX starts. `test_sharding.py` reads what it writes to the file it is given.

    python tests/eight_devices.py FILE
"""

import pathlib
import pickle
import sys
import tempfile

import jax
import numpy as np
from conftest import load_config, make_tiny
from ml_collections import ConfigDict

from toco_jax.benchmark.scaling import exchanged_bytes
from toco_jax.method.phases import phase_at
from toco_jax.run import checkpoints, workdir
from toco_jax.run.network import make_model
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.training import step

STEPS = 5
BATCH = 16


def make_batch(seed: int, size: int) -> dict[str, np.ndarray]:
    """Random views and labels of `size` images."""
    rng = np.random.default_rng(seed)
    names = ("image", "view2", "local")
    views = {name: rng.integers(0, 256, (size, 32, 32, 3), np.uint8) for name in names}
    return views | {
        "cls_label": rng.integers(0, 2, (size, 4)).astype(np.float32),
        "valid_box": np.tile(np.int32([0, 32, 4, 32]), (size, 1)),
    }


def save(config: ConfigDict, state: step.TrainState, folder: pathlib.Path) -> None:
    """Writes a checkpoint from the devices that the state is on."""
    folder.mkdir()
    workdir.save_config(folder, config)
    store = checkpoints.Checkpoints(folder)
    store.save(state, meta={})
    store.close()


def restore(like: step.TrainState, folder: pathlib.Path) -> step.TrainState:
    """Reads a checkpoint onto the devices of `like`."""
    store = checkpoints.Checkpoints(folder)
    restored, _ = store.restore(like)
    store.close()
    return restored


def main(out: pathlib.Path, folder: pathlib.Path) -> None:
    """Steps on each mesh, and the last once more from the other mesh's checkpoint."""
    config = make_tiny(load_config("voc")(), batch_size=BATCH, group_size=2)
    model = make_model(config, grid=4)
    params = jax.tree.map(np.asarray, step.init_params(model, jax.random.key(0)))
    batches = [make_batch(seed, BATCH) for seed in range(STEPS)]
    phase = phase_at(config, 5)
    found = {"parameter_bytes": sum(x.nbytes for x in jax.tree.leaves(params))}
    states, run_step, moments = {}, {}, {}
    for num in (1, 8):
        mesh = make_mesh(num)
        train_step = step.make_train_step(config, model, mesh, phase, num_present=4)
        state = step.place_state(config, step.init_state(config, params), mesh)
        compiled = train_step.lower(state, shard_batch(batches[0], mesh)).compile()
        found[f"exchanged_{num}"] = exchanged_bytes(compiled.as_text())

        def run_step_of(state, batch, mesh=mesh, compiled=compiled):
            batch = shard_batch(batch, mesh)
            with jax.transfer_guard("disallow"):
                return compiled(state, batch)

        found[f"terms_{num}"] = []
        for i, batch in enumerate(batches):
            if i == STEPS - 1:
                save(config, state, folder / str(num))
            given = jax.tree.leaves(state)
            state, terms = run_step_of(state, batch)
            found[f"deleted_{num}"] = [x.is_deleted() for x in given]
            found[f"terms_{num}"].append(jax.device_get(terms))
            if i == 0:
                moments[num] = jax.device_get(state.opt_state[1].mu)
                found[f"first_params_{num}"] = jax.device_get(state.params)
        states[num], run_step[num] = state, run_step_of
    found["moments"] = moments
    for num, other in ((1, 8), (8, 1)):
        crossed = restore(states[num], folder / str(other))
        found[f"crossed_{num}"] = jax.device_get(run_step[num](crossed, batches[-1])[1])
    out.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(sys.argv[1]), pathlib.Path(folder))
