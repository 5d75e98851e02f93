"""What is said of a step that a device has no memory for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.method.phases import Phase
from toco_jax.run.state import TrainState
from toco_jax.runtime.device_memory import planned_bytes
from toco_jax.runtime.sharding import make_mesh
from toco_jax.training import loop, out_of_memory
from toco_jax.training.out_of_memory import DeviceMemoryError, Plan, advice

GIB = 2**30
# In the place of a step: a product of outer size, sorted, which needs some megabytes.
WORK = jax.jit(lambda state, batch: jnp.sort(jnp.outer(batch["image"], batch["image"])).sum())
INPUTS = (
    TrainState(jnp.int32(0), {"w": jnp.zeros(4)}, {}, (), jax.random.key(0)),
    {"image": np.zeros(1000, np.float32)},
)
NO_ROOM = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_what_would_fit_by_the_plan(tiny_config):
    config = tiny_config(batch_size=32, group_size=2)
    # 2 GiB stay, 1 GiB comes with an image: of 16 on each of two devices 8 fit.
    said = advice(config, 2, Plan(total=18 * GIB, per_image=GIB, limit=10 * GIB))
    assert "(10.0 GiB) does not hold a step of 16 images, which takes 18.0 GiB by the" in said
    assert "machine.accumulate=2 would fit, with the same result" in said
    assert "batch_size=16 would fit" in said
    assert "low_memory=on" in said and "shard_optimizer=True" in said and "backbone" not in said
    # With a byte less 7 fit, which are 6 in groups of two and 4 in equal parts.
    said = advice(config, 2, Plan(total=18 * GIB, per_image=GIB, limit=10 * GIB - 1))
    assert "machine.accumulate=4 would fit" in said and "batch_size=12 would fit" in said


def test_what_would_fit_of_a_step_in_parts(tiny_config):
    config = tiny_config(batch_size=32, group_size=2, **{"machine.accumulate": 2})
    said = advice(config, 2, Plan(total=10 * GIB, per_image=GIB, limit=6 * GIB))
    assert "16 images in 2 parts" in said
    assert "machine.accumulate=4 would fit" in said and "batch_size=16 would fit" in said


def test_what_is_said_where_nothing_fits(tiny_config):
    config = tiny_config(batch_size=2, group_size=2, **{"machine.low_memory": "on"})
    said = advice(config, 1, Plan(total=10 * GIB, per_image=GIB, limit=5 * GIB))
    assert said.endswith(": group_size=2 images need a smaller crop_size or backbone")


def test_without_a_plan_half_may_fit(tiny_config):
    said = advice(tiny_config(batch_size=8, group_size=2), 1, None)
    assert "accumulate=2 may fit" in said and "batch_size=4 may fit" in said and "GiB" not in said


@pytest.fixture
def take_step(tiny_config, monkeypatch):
    """Function that takes a step for which there is no memory, of programs that are stand-ins."""

    def take(error):
        def make_train_step(config, model, mesh, phase, *, num_present):
            class Step:
                lower = staticmethod(WORK.lower)

                def __call__(self, state, batch):
                    raise error

            return Step()

        monkeypatch.setattr(loop, "make_train_step", make_train_step)
        monkeypatch.setattr(loop, "phase_at", lambda config, step: Phase((), "cam"))
        config = tiny_config(batch_size=8)
        stepper = loop.make_stepper(config, None, make_mesh(1), num_present=4)
        return stepper(*INPUTS, 0)

    return take


def test_a_step_that_runs_out_of_memory_is_one_sentence(take_step, monkeypatch):
    with pytest.raises(DeviceMemoryError, match=r"does not hold a step of 8 images: machine\."):
        take_step(NO_ROOM)
    total = planned_bytes(WORK.lower(*INPUTS).compile())
    monkeypatch.setattr(out_of_memory, "device_bytes", lambda: total - 1)
    expected = r"\(0\.0 GiB\).* machine\.accumulate=2 would fit.* batch_size=7 would fit"
    with pytest.raises(DeviceMemoryError, match=expected) as told:
        take_step(NO_ROOM)
    assert told.value.__cause__ is NO_ROOM


def test_another_error_stays_what_it_is(take_step):
    other = jax.errors.JaxRuntimeError("INTERNAL: a defect")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        take_step(other)
