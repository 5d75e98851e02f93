"""How a program that computes on a CPU gets its memory.

XLA takes the memory of a step from the C library as one block and gives it back afterwards. Left to
its defaults the library gets the block from the system and returns it each time, and a fifth of a
small step's time goes into mapping and clearing pages of 4 KiB. Here a program keeps what it once
had, in pages of 2 MiB.

Each thread has a heap of its own, and only that of the main thread may grow as large as the block.
So a step runs in the thread that asks for it, not in one of JAX's own. One heap for all threads
would do as well, but for the small buffers of every matrix product: the list in which they are
looked up is long after compiling, and walking it took a seventh of the step's time.
"""

import os
import sys

import jax

VARIABLE = "GLIBC_TUNABLES"
_SETTINGS = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**40}
VALUE = ":".join(f"glibc.malloc.{name}={value}" for name, value in _SETTINGS.items())


def keep_memory() -> None:
    """For the start of a command: what it computes on a CPU keeps its memory for the next time.

    Starts the program again, in the same process, with settings that the C library reads when a
    program starts; a user's own win. Does nothing elsewhere than on Linux.
    """
    if sys.platform != "linux":
        return
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = VALUE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    run_in_calling_thread()


def run_in_calling_thread() -> None:
    """Before JAX's first use of a CPU: has it run programs in the thread that calls them."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
