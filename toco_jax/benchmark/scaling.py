"""What the devices exchange in a training step, counted, and what that costs on paper.

Bytes are those of the collectives in the compiled step, for meshes of 1 to all devices at hand
(`--virtual_devices 4` makes a CPU four). The time is that of a ring over links of a given speed in
each direction, without latency and without overlap with the arithmetic: a bound on the bandwidth's
part, and no measurement. `--batch_size` is one device's share here, the same on every mesh.
"""

import argparse
import re

import jax

from toco_jax.benchmark import workload
from toco_jax.benchmark.measure import Row, Tables, medians
from toco_jax.benchmark.step import Runner
from toco_jax.runtime.sharding import make_mesh

PLANNED = (8, 16, 32, 64, 128, 256)
# Of an asynchronous pair the second has the result alone.
_COLLECTIVE = re.compile(
    r" = (?P<shapes>\S.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all)(?:-done)?\("
)
_SHAPE = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")


def run(args: argparse.Namespace) -> Tables:
    """Returns what was counted on the meshes at hand, and the plan for larger ones."""
    available = jax.device_count()
    sizes = args.devices or [n for n in (2**i for i in range(10)) if n <= available]
    counted, steps, gradient_bytes = [], {}, 0
    for num in sizes:
        config, state, compiled = steps[num] = compile_on(args, num)
        gradient_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))
        counted.append(
            {"devices": num, "batch size": config.batch_size, "parameter bytes": gradient_bytes}
            | exchanged_bytes(compiled.as_text())
        )
    if args.step_seconds:
        seconds, source = args.step_seconds, "given"
    else:
        config, _, compiled = steps[1] if 1 in steps else compile_on(args, 1)
        inputs = workload.make_inputs(config, workload.make_model(config), make_mesh(1))
        works = {"step": Runner(compiled, *inputs)}
        seconds, source = medians(works, repeats=args.repeats)["step"], "measured on one device"
    exchanged = {kind: counted[-1][kind] for kind in ring_factors(2)}
    if not any(exchanged.values()):
        # A device alone exchanges nothing.
        exchanged["all-reduce"] = gradient_bytes
    plan = [plan_row(num, exchanged, seconds, args.link_gbytes) for num in PLANNED]
    title = f"on paper: a step of {seconds:.3g} s ({source}), {args.phase} phase"
    return {"bytes in the compiled step, per device": counted, title: plan}


def compile_on(args: argparse.Namespace, num_devices: int) -> tuple:
    """Returns configuration, abstract state and compiled step for the first devices."""
    mesh = make_mesh(num_devices)
    config = workload.configuration(args, num_devices=1)
    config.batch_size *= num_devices
    model = workload.make_model(config)
    state, _ = workload.abstract_inputs(config, model, mesh)
    compiled = workload.traced_step(config, model, mesh, args.phase).lower().compile()
    return config, state, compiled


def exchanged_bytes(hlo: str) -> dict[str, int]:
    """Returns the bytes of the results of each kind of collective in a compiled program's text.

    Raises:
        ValueError: a shape whose element type has no size in its name.
    """
    totals = dict.fromkeys(ring_factors(2), 0)
    for found in _COLLECTIVE.finditer(hlo):
        for kind, bits, sides in _SHAPE.findall(found["shapes"]):
            if not bits and kind != "pred":
                raise ValueError(f"a collective of {kind}[{sides}], whose size is not known")
            size = max(int(bits or 8) // 8, 1)
            for side in filter(None, sides.split(",")):
                size *= int(side)
            totals[found["kind"]] += size
    return totals


def ring_factors(num_devices: int) -> dict[str, float]:
    """Returns the bytes that each device sends in a ring per byte of the collective's result."""
    rest = num_devices - 1
    return {
        "all-reduce": 2 * rest / num_devices,
        "all-gather": rest / num_devices,
        "reduce-scatter": float(rest),
        "all-to-all": rest / num_devices,
    }


def ring_seconds(exchanged: dict[str, int], num_devices: int, gbytes: float) -> float:
    """Returns the time of all collectives in a ring of links of `gbytes` GB/s per direction."""
    factors = ring_factors(num_devices)
    sent = sum(factors[kind] * size for kind, size in exchanged.items())
    return sent / (gbytes * 1e9)


def plan_row(
    num_devices: int, exchanged: dict[str, int], step_seconds: float, links: list[float]
) -> Row:
    """Returns the milliseconds of the exchange and its share of the step, for each link."""
    row: Row = {"devices": num_devices}
    for gbytes in links:
        seconds = ring_seconds(exchanged, num_devices, gbytes)
        share = 100 * seconds / (step_seconds + seconds)
        row |= {f"{gbytes:g} GB/s: ms": 1000 * seconds, f"{gbytes:g} GB/s: % of step": share}
    return row
