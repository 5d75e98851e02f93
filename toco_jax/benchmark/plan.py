"""The training step compiled for devices that are not here: whether it compiles, and what it takes.

XLA compiles for a GPU or TPU without one, given its plugin: `pip install "jax[cuda12]"` or
`"jax[tpu]"`. The memory is the compiler's plan, the bytes exchanged are counted in the compiled
program. Nothing is run, and nothing is timed but the compilation, on the processor of this machine.
"""

import argparse
import os
import time
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from toco_jax.benchmark import workload
from toco_jax.benchmark.flop_count import product_flops
from toco_jax.benchmark.measure import Row, Tables
from toco_jax.benchmark.scaling import exchanged_bytes
from toco_jax.config import ConfigError
from toco_jax.runtime.device_memory import planned_bytes
from toco_jax.runtime.sharding import mesh_of

# What XLA wants to know of a GPU, in its text format; sizes in bytes, bandwidth in bytes/s.
_GPUS = {
    "h100": """
        gpu_device_info {
          cuda_compute_capability { major: 9 }
          core_count: 132
          fpus_per_core: 128
          clock_rate_ghz: 1.98
          threads_per_warp: 32
          threads_per_block_limit: 1024
          threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          shared_memory_per_core: 233472
          shared_memory_per_block: 49152
          shared_memory_per_block_optin: 232448
          l2_cache_size: 52428800
          memory_bandwidth: 3352320000000
          device_memory_size: 84929347584
        }
        platform_name: "CUDA"
        dnn_version_info { major: 9 minor: 10 }
        runtime_version { major: 12 minor: 9 }
        device_description_str: "NVIDIA H100 80GB HBM3"
    """
}
# Without a device there is nothing to tune other kernels for products on.
_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}, "tpu": {}}


def target_devices(target: str) -> tuple[str, Sequence[jax.Device]]:
    """Returns the platform and the devices that `--target` names.

    Raises:
        ConfigError: it names none, or the plugin that compiles for them is not installed.
    """
    kind, _, name = target.partition(":")
    model, _, count = (name if name.count(":") else f"{name}:1").partition(":")
    if kind == "gpu" and model in _GPUS and count.isdecimal() and int(count):
        topology = {"target_config": _GPUS[model], "topology": f"1x1x{count}"}
        plugin, extra, name = "cuda", "cuda12", ""
    elif kind == "tpu" and name:
        # Otherwise the plugin looks for the machine's own TPU.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        topology, plugin, extra = {}, "tpu", "tpu"
    else:
        known = ", ".join(f"gpu:{gpu}" for gpu in _GPUS)
        raise ConfigError(f"--target={target} is unknown: use {known} or tpu:v5e:2x4")
    try:
        return kind, topologies.get_topology_desc(name, plugin, **topology).devices
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--target={target}: {error}. Is the plugin there (pip install 'jax[{extra}]')?"
        ) from error


def run(args: argparse.Namespace) -> Tables:
    """Returns a table with one row on the compiled step."""
    jax.config.update("jax_platforms", "cpu")
    platform, devices = target_devices(args.target)
    mesh = mesh_of(devices)
    config = workload.configuration(args, num_devices=mesh.size, platform=platform)
    model = workload.make_model(config, platform)
    traced = workload.traced_step(config, model, mesh, args.phase)
    lowered = traced.lower()
    began = time.perf_counter()
    compiled = lowered.compile(_OPTIONS[platform])
    seconds = time.perf_counter() - began
    row: Row = {
        "target": args.target,
        "device": devices[0].device_kind,
        "devices": mesh.size,
        "backbone": config.backbone,
        "size": config.crop_size,
        "batch size": config.batch_size,
        "dtype": model.compute.dtype,
        "phase": args.phase,
        "compile seconds here": seconds,
        "FLOP per step and device": float(product_flops(traced)),
        "planned memory per device, MiB": planned_bytes(compiled) / 2**20,
    }
    exchanged = {
        f"{kind}, MiB": size / 2**20
        for kind, size in exchanged_bytes(compiled.as_text()).items()
        if size
    }
    return {"training step, compiled and not run": [row | exchanged]}
