"""Seconds to trace, lower and compile the training step, with and without the persistent cache.

The compilation that is timed fills a cache of its own in a temporary folder, and `cached` reads it
from there, as a second process would. The user's cache is left alone.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from toco_jax.benchmark import workload
from toco_jax.benchmark.flop_count import product_flops
from toco_jax.benchmark.measure import Row, Tables
from toco_jax.runtime.sharding import make_mesh
from toco_jax.training.step import make_train_step

_ENTRY_LIMITS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def run(args: argparse.Namespace) -> Tables:
    """Returns a table with one row per phase."""
    mesh = make_mesh()
    config = workload.configuration(args, num_devices=mesh.size)
    model = workload.make_model(config)
    inputs = workload.abstract_inputs(config, model, mesh)
    rows = []
    for name in args.phase:
        phase = workload.phase_of(config, name)
        make_step = functools.partial(
            make_train_step, config, model, mesh, phase, num_present=workload.NUM_PRESENT
        )
        rows.append({"phase": name, **compile_times(make_step, inputs)})
    size = f"{config.backbone}, {config.crop_size} px, {model.compute.dtype}, {mesh.size} devices"
    return {f"compiling the training step, {size}": rows}


def compile_times(make_step: Callable[[], jax.stages.Wrapped], inputs: tuple) -> Row:
    """Returns the seconds of each stage; both compilations start with empty caches in memory."""
    row: Row = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        row[name] = time.perf_counter() - began
        return result

    with own_cache():
        jax.clear_caches()
        traced = timed("trace s", lambda: make_step().trace(*inputs))
        lowered = timed("lower s", traced.lower)
        timed("compile s", lowered.compile)
        jax.clear_caches()
        again = make_step().lower(*inputs)
        timed("compile, cached s", again.compile)
    return row | {"FLOP per device": float(product_flops(traced))}


@contextmanager
def own_cache() -> Iterator[None]:
    """Uses an empty persistent cache in a temporary folder, which keeps every program."""
    names = (*_ENTRY_LIMITS, "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, value in _ENTRY_LIMITS.items():
                jax.config.update(name, value)
            jax.config.update("jax_compilation_cache_dir", folder)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
