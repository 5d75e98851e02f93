"""What a program frees stays with it, without a second start or another environment."""

import os
import subprocess
import sys

import pytest

from toco_jax.runtime import host_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="settings of the GNU C library")

# Prints the MiB that the process still holds of 64 MiB that it has freed.
PROGRAM = """
import os

import numpy as np

from toco_jax.runtime import host_memory


def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


print("started")
environment = dict(os.environ)
host_memory.keep_memory()
assert dict(os.environ) == environment
before = held()
block = np.ones(2**23)
assert held() - before > 60
del block
print(held() - before)
"""


def held_after_freeing(**environment):
    inherited = {k: v for k, v in os.environ.items() if k != host_memory.VARIABLE}
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(
        command, env=inherited | environment, check=True, capture_output=True, text=True
    )
    started, held = ran.stdout.splitlines()
    assert started == "started"
    return float(held)


def test_what_is_freed_is_kept():
    assert held_after_freeing() > 60


def test_a_users_settings_win():
    assert held_after_freeing(**{host_memory.VARIABLE: ""}) < 4
