"""A scratch copy of the checkout in which one process at a time runs tests on a mutant."""

import contextlib
import importlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

# What most tests import first and takes seconds, none of it ours. No backend may start here.
_IMPORTED_ONCE = ("jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "grain", "cv2")
_IMPORTED_ONCE += ("ml_collections", "rich.table", "safetensors.numpy", "scipy.special", "pytest")
_IMPORTED_ONCE += ("PIL.Image", "absl.logging", "jax.test_util", "_pytest.assertion.rewrite")
# A compiler's flags as in `conftest.py`, of which every process of a run has to have the same.
_FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"


class Checkout:
    """A copy of a checkout's files, and a process for each run of tests in it.

    Args:
        source: the checkout; what git ignores is left out.
        folder: where the copy and the compiled programs go.
    """

    def __init__(self, source: pathlib.Path, folder: pathlib.Path):
        self.root, self._log = folder / "checkout", folder / "pytest.log"
        shutil.rmtree(self.root, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=source, capture_output=True, text=True, check=True)
        for name in filter(None, names.stdout.split("\0")):
            if (source / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, self.root / name)
        cache = str(folder / "cache")
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": _FLAGS,
            "TOCO_TEST_CACHE": cache,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
            "PYTHONPATH": str(self.root),
            # A module and its mutant may have one size and one time.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        sys.dont_write_bytecode = True
        sys.path[:] = [str(self.root), *(p for p in sys.path if pathlib.Path(p) != source)]
        for name in _IMPORTED_ONCE:
            importlib.import_module(name)

    @contextlib.contextmanager
    def changed(self, module: str, source: str):
        """The copy with another text of one module."""
        path = self.root / module
        before = path.read_text()
        path.write_text(source)
        try:
            yield
        finally:
            path.write_text(before)

    def run(self, tests: tuple[str, ...], *, cpu_seconds: float) -> tuple[str, str, float]:
        """Runs tests until the first failure.

        Args:
            tests: pytest's arguments, in order.
            cpu_seconds: of the process and its threads, after which it ends; it also ends after
                ten times as long on the clock.

        Returns:
            `"passed"`, `"failed"` or `"timeout"`, the first test that failed, and the seconds of
            the processor.
        """
        used, deadline = _children_seconds(), time.monotonic() + 10 * cpu_seconds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns of every fork; its backend is not started
            process = os.fork()
        if process == 0:
            self._run_here(tests, round(cpu_seconds))
        status = None
        while status is None:
            done, found = os.waitpid(process, os.WNOHANG)
            if done:
                status = found
            elif time.monotonic() > deadline:
                os.killpg(process, signal.SIGKILL)
                status = os.waitpid(process, 0)[1]
            else:
                time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # commands that a test left behind
        seconds = _children_seconds() - used
        code = os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGKILL, -signal.SIGXCPU):
            return "timeout", "", seconds
        if code in (4, 5):
            raise SystemExit(f"{' '.join(tests)} are no tests, see {self._log}")
        return "failed" if code else "passed", self._first_failure(), seconds

    def _run_here(self, tests: tuple[str, ...], cpu_seconds: int) -> None:
        """In the new process: runs pytest and ends."""
        os.setsid()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.root)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        code = 70
        try:
            import pytest

            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"]
            code = int(pytest.main([*options, *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _first_failure(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        failed = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return failed[0] if failed else ""


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
