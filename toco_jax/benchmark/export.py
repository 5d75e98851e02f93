"""The files of `toco export`: their size, seconds until they are loaded, and time per image.

The network has random weights. The first row is the network in this process, to whose labels those
of the files are compared. ONNX Runtime uses the fastest of its providers that is there. Its threads
sleep when they wait: spinning ones would disturb what is measured next. The CPU time is what one
core would need.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from toco_jax.benchmark import workload
from toco_jax.benchmark.measure import Tables, medians, wall_and_cpu_seconds, wall_seconds
from toco_jax.benchmark.photos import sized
from toco_jax.export import onnx_model, stablehlo
from toco_jax.export.onnx_graph import onnx_package
from toco_jax.training.step import init_params

Function = Callable[[np.ndarray], np.ndarray]


def run(args: argparse.Namespace) -> Tables:
    """Returns a row for each kind of file; its function is called once when it is loaded."""
    runtime = onnx_package("onnxruntime")
    config = workload.configuration(args, num_devices=1, platform="cpu")
    side, batch = config.crop_size, args.batch
    model = workload.make_model(config, platform="cpu")
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(config.seed))
    params = jax.device_get(params)
    images = sized(args.image, side, side, count=batch)
    predict = stablehlo.make_predictor(model, params)
    to_onnx = functools.partial(onnx_model.to_onnx, model, params)
    files = {
        "StableHLO": stablehlo.serialize(predict, size=(side, side)),
        "ONNX": to_onnx(size=(side, side)),
        "ONNX, float16": to_onnx(size=(side, side), half=True),
        "ONNX, native": to_onnx(size=None),
    }
    functions: dict[str, Function] = {"this process": _of_jax(predict)}
    loading: dict[str, float] = {}
    for name, content in files.items():

        def load(name: str = name, content: bytes = content) -> None:
            if name == "StableHLO":
                functions[name] = _of_jax(jax_export.deserialize(bytearray(content)).call)
            else:
                functions[name] = _of_onnx(runtime, content)
            functions[name](images)

        loading[name] = wall_seconds(load)
    works = {name: functools.partial(call, images) for name, call in functions.items()}
    seconds = medians(works, repeats=args.repeats, measure=wall_and_cpu_seconds)
    expected = functions["this process"](images)
    rows = [
        {
            "file": name,
            "MiB": len(files[name]) / 2**20 if name in files else "",
            "s to load": loading.get(name, ""),
            "ms per image": 1000 * seconds[name][0] / batch,
            "CPU ms per image": 1000 * seconds[name][1] / batch,
            "% of labels equal": 100 * float(np.mean(call(images) == expected)),
        }
        for name, call in functions.items()
    ]
    return {f"exported {config.backbone}, {side} pixels, batch {batch}": rows}


def _of_jax(predict: Callable[[Any], dict[str, Any]]) -> Function:
    compiled = jax.jit(predict)
    return lambda images: np.asarray(jax.device_get(compiled(images))["mask"])


def _of_onnx(runtime: Any, content: bytes) -> Function:
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = runtime.get_available_providers()
    session = runtime.InferenceSession(content, options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))[
        "mask"
    ]
