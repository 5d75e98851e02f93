"""Two processes with two devices each are one run: the same numbers, and one end for both."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from conftest import TINY_RUN, XLA_FLAGS

from toco_jax.run.workdir import CLASSES_FILE
from toco_jax.runtime import processes
from toco_jax.training.loop import train

REPOSITORY = pathlib.Path(__file__).parents[2]
STEPS = {"total_steps": 10, "save_every": 5, "log_every": 1}


class Job:
    """Two processes of `python -m toco_jax.main` on one folder."""

    def __init__(self, workdir: pathlib.Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        values = TINY_RUN | STEPS
        self.workdir = workdir
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "toco_jax.main", "--config=configs/voc.py"),
                    *(f"--workdir={workdir}", f"--coordinator={address}"),
                    *("--num_processes=2", f"--process_id={i}"),
                    *(f"--config.{key}={value}" for key, value in values.items()),
                ],
                cwd=REPOSITORY,
                env=os.environ
                | {"XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that the first process does, or for its end."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.processes[0].poll() is None:
            if condition():
                return
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        """Waits until a step is in the metrics, or the first process has ended."""
        self.wait_until(lambda: any(line["step"] >= step for line in losses(self.workdir)))

    def ends(self, seconds: float = 240) -> tuple[list[int], list[str]]:
        """Exit codes and output of both."""
        printed = [process.communicate(timeout=seconds)[0] for process in self.processes]
        return [process.returncode for process in self.processes], printed


def losses(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [json.loads(line) for line in whole if line.endswith("\n")]
    return [line for line in lines if "total" in line]


def test_stopped_killed_and_finished_run_is_that_of_one_process(tiny_config, tmp_path):
    shared, alone = tmp_path / "shared", tmp_path / "alone"

    # The first process leads the others; without it the second has to end too.
    led = Job(shared)
    led.wait_until((shared / CLASSES_FILE).exists)
    assert [process.poll() for process in led.processes] == [None, None]
    led.processes[0].kill()
    codes, printed = led.ends(60)
    assert codes[0] == -signal.SIGKILL and codes[1] not in (0, processes.RESTART), printed

    told = Job(shared)
    told.wait_for_step(2)
    told.processes[1].send_signal(signal.SIGTERM)
    codes, printed = told.ends()
    assert codes == [processes.RESTART] * 2, printed
    assert "stopped and saved at step" in printed[0]
    assert "step 1/10" in printed[0] and "step 1/10" not in printed[1]
    saved = max(int(path.name) for path in (shared / "checkpoints").iterdir())
    assert 2 <= saved < 10

    killed = Job(shared)
    killed.wait_for_step(saved + 2)
    killed.processes[1].kill()
    codes, printed = killed.ends(60)
    assert codes[0] not in (0, processes.RESTART) and codes[1] == -signal.SIGKILL, printed
    assert f"going on from step {saved}" in printed[0]
    assert not (shared / "results.json").exists()

    codes, printed = Job(shared).ends()
    assert codes == [0, 0], printed

    results = train(tiny_config(**STEPS), alone)
    assert len(losses(shared)) == len(losses(alone)) == 10
    for ours, theirs in zip(losses(shared), losses(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
    found = json.loads((shared / "results.json").read_text())
    assert found["images"] == results["images"] == 8
    for name in ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1"):
        np.testing.assert_allclose(found[name], results[name], atol=0.5, err_msg=name)


def test_an_incomplete_description_is_refused(monkeypatch):
    with pytest.raises(processes.ProcessError, match="--num_processes and --process_id missing"):
        processes.join(coordinator="127.0.0.1:1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(processes.ProcessError, match=r"srun has started 4 .* add --distributed"):
        processes.join()
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")

    def finds_nothing(*_args, **_kwargs):
        raise ValueError("coordinator_address should be defined.")

    # The real one refuses to work once a process has used JAX.
    monkeypatch.setattr(processes.jax.distributed, "initialize", finds_nothing)
    with pytest.raises(processes.ProcessError, match="finds no SLURM job"):
        processes.join(distributed=True)


def test_an_error_alone_is_an_ordinary_error():
    with pytest.raises(ZeroDivisionError), processes.ends_all():
        raise ZeroDivisionError


def test_sigterm_is_noticed_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with processes.Preemption() as preemption:
        assert not preemption.stops(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.stops(2)
    assert signal.getsignal(signal.SIGTERM) == before
