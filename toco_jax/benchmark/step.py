"""The training step on random weights: seconds, images/s, FLOP/s, memory, and where the time goes.

FLOPs are those of the matrix products and convolutions that the step does, what `low_memory`
computes again included. XLA's own count, of all operations, is printed beside it; it takes the body
of a loop once, and `low_memory`, `accumulate`, PAR and the lattice are loops.
"""

import argparse
import functools
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from toco_jax.benchmark import workload
from toco_jax.benchmark.flop_count import product_flops
from toco_jax.benchmark.measure import (
    Row,
    Tables,
    flops,
    matrix_rate,
    medians,
    peak_bytes,
    wall_seconds,
)
from toco_jax.benchmark.parts import make_parts
from toco_jax.method.phases import Phase
from toco_jax.models.network import ToCo
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.sharding import make_mesh

# Steps under `--profile`.
_PROFILED = 3


def run(args: argparse.Namespace) -> Tables:
    """Compiles the step and, unless only FLOPs are asked for, times it."""
    mesh = make_mesh()
    config = workload.configuration(args, num_devices=mesh.size)
    model = workload.make_model(config)
    began = time.perf_counter()
    traced = workload.traced_step(config, model, mesh, args.phase)
    compiled = traced.lower().compile()
    compile_seconds = time.perf_counter() - began
    work = product_flops(traced)
    about: Row = {
        "backbone": config.backbone,
        "size": config.crop_size,
        "batch size": config.batch_size,
        "dtype": model.compute.dtype,
        "phase": args.phase,
        "compile seconds": compile_seconds,
        "FLOP per step and device": float(work),
        "FLOP by XLA, loops once": flops(compiled),
    }
    title = "training step"
    if args.flops_only:
        return {title: [about]}

    runner = Runner(compiled, *workload.make_inputs(config, model, mesh))
    seconds = medians({"step": runner}, repeats=args.repeats)["step"]
    peak, source = peak_bytes(compiled)
    if args.profile:
        with jax.profiler.trace(args.profile):
            for _ in range(_PROFILED):
                wall_seconds(runner)
    rate = matrix_rate(model.compute.jax_dtype)
    images = config.batch_size / seconds
    row = about | {
        "seconds per step": seconds,
        "images/s": images,
        "images/s per device": images / mesh.size,
        "FLOP/s per device": work / seconds,
        "FLOP/s of a matrix product": rate,
        "% of the matrix product": 100 * work / seconds / rate,
        f"peak memory per device, MiB ({source})": peak / 2**20,
    }
    tables = {title: [row]}
    if args.breakdown:
        phase = workload.phase_of(config, args.phase)
        parts = breakdown(args, config, model, phase, runner)
        tables["parts of the step, each by itself"] = parts_and_whole(parts, seconds)
    return tables


class Runner:
    """Takes one step per call, from the state that the call before returned."""

    def __init__(self, compiled: jax.stages.Compiled, state: Any, batch: dict):
        self._step, self.state, self.batch = compiled, state, batch

    def __call__(self) -> Any:
        self.state, terms = self._step(self.state, self.batch)
        return self.state, terms


def breakdown(
    args: argparse.Namespace, config: ConfigDict, model: ToCo, phase: Phase, runner: Runner
) -> dict[str, float]:
    """Returns the seconds of each part of the step, run by itself on one device's share."""
    share = {name: x.addressable_data(0) for name, x in runner.batch.items()}
    state = jax.device_put(runner.state, jax.local_devices()[0])
    options = compiler_options(platform_of(jax.local_devices()[0]))
    jit = functools.partial(jax.jit, compiler_options=options)
    parts = make_parts(
        config, model, phase, state, share, num_present=workload.NUM_PRESENT, jit=jit
    )
    works = {name: functools.partial(part, *inputs) for name, (part, inputs) in parts.items()}
    return medians(works, repeats=args.repeats)


def parts_and_whole(parts: dict[str, float], whole: float) -> list[Row]:
    """Returns rows of the parts, of their sum and of the whole step, given in seconds."""
    seconds = parts | {"sum of the parts": sum(parts.values()), "whole step": whole}
    return [
        {"part": name, "ms": 1000 * value, "% of the step": 100 * value / whole}
        for name, value in seconds.items()
    ]
