"""Shared test set-up: virtual CPU devices, strict ranks, shapes and dtypes, and reference data.

`TOCO_GOLDEN` names a folder of numbers computed by the published implementation and `TOCO_VOC` a
folder that holds `voc_animals/` and `voc_native/`. Tests that need them are skipped when the
variable is unset; once it is set, a missing file is a failure.
"""

import atexit
import contextlib
import importlib.util
import os
import pathlib
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# A shell has its background commands ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Half of the tests' time is compilation, and LLVM's optimiser half of that; what is compiled twice,
# in this process or in the commands that tests start, comes from a cache.
XLA_FLAGS = "--xla_backend_optimization_level=0"
if "TOCO_TEST_CACHE" not in os.environ:
    os.environ["TOCO_TEST_CACHE"] = tempfile.mkdtemp(prefix="toco_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["TOCO_TEST_CACHE"]
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} --xla_force_host_platform_device_count=4"
    atexit.register(shutil.rmtree, os.environ["TOCO_TEST_CACHE"], ignore_errors=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# A call whose arguments or result differ from the annotated dtypes and shapes raises an error, also
# while it is traced. An `int` may stand for a `float`.
install_import_hook(
    ["toco_jax.method", "toco_jax.ops"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# A few examples, the same every time, of each property; `--hypothesis-profile=thorough` draws many.
settings.register_profile("few", max_examples=8, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=1000, deadline=None, database=None)
settings.load_profile("few")


# Files that take longest, the longest first: one that comes late leaves a worker without work.
LONGEST = (
    "runtime/test_processes.py",
    "config/test_every_key.py",
    "wiring/test_train.py",
    "training/test_loop.py",
    "runtime/test_sharding.py",
    "wiring/test_learns.py",
    "training/test_step.py",
    "weights/test_load.py",
    "test_evaluate.py",
    "models/test_vit.py",
    "wiring/test_step.py",
    "export/test_numbers.py",
    "inference/test_native.py",
)


def pytest_configure(config):
    """Has `pytest-xdist` keep the order of the files."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first."""
    rank = {pathlib.Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def golden():
    """Loader of golden files: `golden("par")["out"]`."""
    folder = os.environ.get("TOCO_GOLDEN")
    if not folder:
        pytest.skip("TOCO_GOLDEN is not set")
    with contextlib.ExitStack() as files:
        yield lambda name: files.enter_context(np.load(pathlib.Path(folder) / f"{name}.npz"))


@pytest.fixture(scope="session")
def voc_folder():
    """Path of the folder that holds `voc_animals/VOCdevkit` and `voc_native/VOCdevkit`."""
    folder = os.environ.get("TOCO_VOC")
    if not folder:
        pytest.skip("TOCO_VOC is not set")
    return pathlib.Path(folder)


@pytest.fixture
def cudnn(monkeypatch):
    """Lets cuDNN's attention be traced and lowered where there is none to ask for its version."""
    module = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{module}.check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(f"{module}.check_compute_capability", lambda _: True)
    monkeypatch.setattr(f"{module}.is_cuda_compute_capability_equal", lambda _: False)


@pytest.fixture
def emulated_cudnn(monkeypatch):
    """In the place of cuDNN's attention JAX's own of the same contract, with cuDNN's one condition.

    Gives the list of the numbers of tokens it was called with.
    """
    attend, lengths = jax.nn.dot_product_attention, []

    def on_any_device(q, k, v, *, implementation, **kwargs):
        assert implementation == "cudnn"
        assert q.shape[1] % 2 == 0 == k.shape[1] % 2
        lengths.append(q.shape[1])
        with jax.numpy_dtype_promotion("standard"):
            return attend(q, k, v, **kwargs, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_any_device)
    return lengths


def load_config(name):
    """`get_config` of a file in `configs/`."""
    path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def make_tiny(config, **overrides):
    """A configuration of VOC as a run of the procedural images that compiles in seconds."""
    with config.ignore_type():
        config.update_from_flattened_dict(TINY_RUN | overrides)
    return config


@pytest.fixture(scope="session")
def get_config_of():
    """Function from the name of a file in `configs/` to its `get_config`."""
    return load_config


@pytest.fixture(scope="session")
def voc_config():
    """`get_config` of `configs/voc.py`."""
    return load_config("voc")


@pytest.fixture(scope="session")
def tiny_config(voc_config):
    """Function from changed values to the configuration of a tiny run."""
    return lambda **overrides: make_tiny(voc_config(), **overrides)


TINY_RUN = {
    "backbone": "width=16,depth=2,heads=2,patch=8",
    "init": "random",
    "num_classes": 4,
    "aux_layer": -2,
    "decoder_width": 8,
    "decoder_dilation": 1,
    "crop_size": 32,
    "local_crop_size": 16,
    "num_local_crops": 2,
    "cam_scales": (1.0,),
    "batch_size": 4,
    "group_size": 1,
    "total_steps": 10,
    "warmup_steps": 2,
    "learning_rate": 1e-3,
    # The second phase has all terms, the first the few that compile soonest.
    "loss_weights.ptc": ((0, 0.0), (2, 0.2)),
    "loss_weights.ctc": ((0, 0.0), (2, 0.5)),
    "loss_weights.seg": ((0, 0.0), (2, 0.1)),
    "loss_weights.reg": ((0, 0.0), (2, 0.05)),
    "eval_every": 100,
    "eval_batches": 2,
    "save_every": 5,
    "log_every": 2,
    "data.source": "shapes",
    "data.train_split": "train",
    "machine.num_threads": 1,
}
