import os
import pathlib
import subprocess
import sys

import pytest

from toco_jax import host_memory

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not HUGE_PAGES.is_file() or "[never]" in HUGE_PAGES.read_text(),
    reason="settings of the GNU C library, seen in the count of huge pages",
)

# Runs a program whose intermediate result takes 64 MiB; prints the pages that ten runs mapped.
PROGRAM = """
import resource

from toco_jax import host_memory

host_memory.keep_memory()

import jax
import jax.numpy as jnp

x = jnp.zeros((16, 2**20))
program = jax.jit(lambda x: jnp.sum(jnp.sin(jax.lax.optimization_barrier(x + 1)), axis=1))
for _ in range(5):
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# Pages of 2 MiB that the intermediate result takes.
BLOCK = 32


def pages_mapped(**environment):
    inherited = {k: v for k, v in os.environ.items() if k != host_memory.VARIABLE}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(
        command, env=inherited | environment, check=True, capture_output=True, text=True
    )
    return int(ran.stdout)


def test_a_programs_memory_is_kept():
    assert pages_mapped() <= 2 * BLOCK


def test_a_users_settings_win():
    assert pages_mapped(**{host_memory.VARIABLE: ""}) >= 10 * BLOCK
