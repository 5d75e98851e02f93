"""How the C library hands out memory, for commands that compute on a CPU.

XLA takes the memory of a step from the C library and gives it back afterwards. Left to its defaults
the library gets it from the system and returns it each time, and a fifth of a small step's time on
a CPU goes into mapping and clearing pages of 4 KiB. Here a program keeps what it once had, in pages
of 2 MiB. One heap for all threads, because only the first may grow that large.
"""

import os
import sys

VARIABLE = "GLIBC_TUNABLES"
_SETTINGS = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}
VALUE = ":".join(f"glibc.malloc.{name}={value}" for name, value in _SETTINGS.items())


def restart_with_kept_memory() -> None:
    """Starts this program again, in the same process, with these settings, which the C library
    reads when a program starts; a user's own win. Does nothing elsewhere than on Linux.
    """
    if sys.platform == "linux" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = VALUE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
