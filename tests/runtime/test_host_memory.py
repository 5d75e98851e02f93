import os
import subprocess
import sys

import pytest

from toco_jax.runtime import host_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="settings of the GNU C library")

# Runs a program whose intermediate result takes 64 MiB; prints the pages that a run mapped, in the
# middle of eleven.
PROGRAM = """
import resource
import statistics

from toco_jax.runtime import host_memory

host_memory.keep_memory()

import jax
import jax.numpy as jnp

x = jnp.zeros((16, 2**20))
program = jax.jit(lambda x: jnp.sum(jnp.sin(jax.lax.optimization_barrier(x + 1)), axis=1))
counts = []
for _ in range(16):
    program(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(statistics.median(after - before for before, after in zip(counts[4:], counts[5:])))
"""
# Pages that the intermediate result takes where they are large, of 2 MiB.
BLOCK = 32


def pages_mapped(**environment):
    inherited = {k: v for k, v in os.environ.items() if k != host_memory.VARIABLE}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(
        command, env=inherited | environment, check=True, capture_output=True, text=True
    )
    return float(ran.stdout)


def test_a_programs_memory_is_kept():
    assert pages_mapped() <= 2


def test_a_users_settings_win():
    assert pages_mapped(**{host_memory.VARIABLE: ""}) >= BLOCK
