"""How XLA compiles the network for each kind of device."""

import platform as machine

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.runtime.compute import compiler_options

YNN = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture(autouse=True)
def on_x86(monkeypatch):
    monkeypatch.setattr(machine, "machine", lambda: "x86_64")
    monkeypatch.setenv("XLA_FLAGS", "")


def test_options_of_each_kind_of_device(monkeypatch):
    assert set(compiler_options("cpu")) == {YNN}
    assert compiler_options("gpu") == {"xla_gpu_dot_merger_threshold_mb": 0}
    assert compiler_options("tpu") == {}
    monkeypatch.setattr(machine, "machine", lambda: "arm64")
    assert compiler_options("cpu") == {}


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp --{YNN}=")
    assert compiler_options("cpu") == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp")
    assert set(compiler_options("cpu")) == {YNN}


@pytest.mark.skipif(
    machine.machine() not in ("x86_64", "AMD64"), reason="set for x86 processors alone"
)
def test_options_change_no_product():
    keys = jax.random.split(jax.random.key(0))
    tokens, kernel = jax.random.normal(keys[0], (78, 19)), jax.random.normal(keys[1], (19, 76))
    product = jax.jit(jnp.matmul, compiler_options=compiler_options("cpu"))
    np.testing.assert_allclose(product(tokens, kernel), tokens @ kernel, atol=1e-5)
