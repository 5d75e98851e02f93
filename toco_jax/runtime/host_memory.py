"""Keeps the memory of computations on a CPU in the process between one step and the next.

XLA allocates the memory of a step from the C library as one block and frees it afterwards. glibc by
default gets so large a block from the system and returns it each time, and a fifth of a small
step's CPU time goes into mapping and clearing its pages.

Each thread allocates from an arena of its own, and only the arena of the main thread can grow as
large as the block. So a step has to run in the thread that calls it, not in one of JAX's own. One
arena for all threads would do as well, but for the small buffers of every matrix product: the list
in which they are looked up is long after compiling, and walking it took a seventh of the step's
time.

Pages of 2 MiB, of which a processor has to remember fewer than of 4 KiB, save a step a few percent
more. glibc asks for them only where the environment says so when a process starts. So the kernel is
asked here, for the addresses at which the heap is going to grow.
"""

import ctypes
import os
import pathlib
import sys

# A user's settings of glibc's allocator, which win over these.
VARIABLE = "GLIBC_TUNABLES"
# Parameters of `mallopt` in glibc: large blocks come from the heap, not from a mapping
# of their own, and the heap never shrinks.
_NO_MAPPINGS = (-4, 0)  # M_MMAP_MAX
_NO_TRIMMING = (-1, -1)  # M_TRIM_THRESHOLD
# Of `madvise`, from Linux's mman.h.
_HUGE_PAGES = 14  # MADV_HUGEPAGE
_HUGE_PAGE = 2 * 2**20


def keep_memory() -> None:
    """Keeps what the process frees for its next allocations, which makes steps on a CPU faster.

    Call it in the main thread before JAX's first use of a CPU. The process does not get smaller
    afterwards. Nothing changes where `GLIBC_TUNABLES` is set or the C library is not glibc, except
    that JAX runs programs in the thread that calls them.
    """
    import jax  # late, because commands import this module before they know their options

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(*_NO_MAPPINGS)
        libc.mallopt(*_NO_TRIMMING)
        if _has_addresses_to_spare():
            _grow_in_huge_pages(libc)


def _has_addresses_to_spare() -> bool:
    """Returns whether addresses without memory count towards no limit."""
    import resource  # not there on Windows

    mode = pathlib.Path("/proc/sys/vm/overcommit_memory")
    strict = mode.exists() and mode.read_text().strip() == "2"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return not strict and limit == resource.RLIM_INFINITY


def _grow_in_huge_pages(libc: ctypes.CDLL) -> None:
    """Extends the heap by as many addresses as half of the machine's memory has, for huge pages.

    An address takes memory once it is written to. The pages stay small if there are not so many
    addresses.
    """
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    libc.malloc.restype = ctypes.c_void_p
    room = libc.malloc(ctypes.c_size_t(size))
    if room is None:
        return
    start = -(-room // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(room + size - start), _HUGE_PAGES)
    libc.free(ctypes.c_void_p(room))
