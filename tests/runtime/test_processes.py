"""Two processes with two devices each are one run: the same numbers, and one end for both."""

import contextlib
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
import stand_in_run
from conftest import TINY_RUN, XLA_FLAGS

from toco_jax.run.workdir import CLASSES_FILE
from toco_jax.runtime import processes
from toco_jax.runtime.exit_codes import RESTART
from toco_jax.training.loop import train

REPOSITORY = pathlib.Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Job:
    """Two processes of `python -m toco_jax.main` on one folder.

    Args:
        workdir: the folder.
        *values_of: the keys of each process that differ from those of all.
    """

    def __init__(self, workdir: pathlib.Path, *values_of: dict):
        address = f"127.0.0.1:{free_port()}"
        values_of = values_of or ({}, {})
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
            for i, values in enumerate(TINY_RUN | {"log_every": 1} | values for values in values_of)
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
    assert codes[0] == -signal.SIGKILL and codes[1] not in (0, RESTART), printed
    assert printed[1].splitlines()[-1].startswith("error: "), printed
    assert "start all of them again" in printed[1].splitlines()[-1], printed

    told = Job(shared)
    told.wait_for_step(2)
    told.processes[1].send_signal(signal.SIGINT)  # which passes SIGTERM on to itself
    codes, printed = told.ends()
    assert codes == [RESTART] * 2, printed
    assert "stopped and saved at step" in printed[0]
    assert "step 1/10" in printed[0] and "step 1/10" not in printed[1]
    saved = max(int(path.name) for path in (shared / "checkpoints").iterdir())
    assert 2 <= saved < 10

    killed = Job(shared)
    killed.wait_for_step(saved + 2)
    killed.processes[1].kill()
    codes, printed = killed.ends(60)
    assert codes[0] not in (0, RESTART) and codes[1] == -signal.SIGKILL, printed
    assert f"going on from step {saved}" in printed[0]
    assert not (shared / "results.json").exists()

    codes, printed = Job(shared).ends()
    assert codes == [0, 0], printed

    results = train(tiny_config(), alone)
    assert len(losses(shared)) == len(losses(alone)) == 10
    for ours, theirs in zip(losses(shared), losses(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
    found = json.loads((shared / "results.json").read_text())
    assert found["images"] == results["images"] == 8
    for name in ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1"):
        np.testing.assert_allclose(found[name], results[name], atol=0.5, err_msg=name)


def test_processes_of_two_configurations_end_with_what_differs(tmp_path):
    other = {"seed": 1, "learning_rate": 0.002, "batch_size": 8}
    codes, printed = Job(tmp_path / "run", {}, other).ends(120)
    assert codes == [1, 1], printed
    for text in printed:
        last = text.splitlines()[-1]
        assert last.startswith("error: the processes of this job differ in "), text
        assert "seed (0 in process 0, 1 in process 1)" in last
        assert "batch_size (4 in process 0, 8 in process 1)" in last
        assert "learning_rate (0.001 in process 0, 0.002 in process 1)" in last
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(
    ("coordinator", "process_id", "message"),
    [
        ("node0", 0, "--coordinator=node0 must be a host and a port"),
        ("node0:port", 0, "--coordinator=node0:port must be a host and a port"),
        ("node0:1", 2, "--process_id=2 is not among 2 processes, .* below 2"),
    ],
)
def test_impossible_numbers_are_refused_before_anyone_waits(coordinator, process_id, message):
    with pytest.raises(processes.ProcessError, match=message):
        processes.join(coordinator=coordinator, num_processes=2, process_id=process_id)


def ended(monkeypatch, error):
    """What `ends_all` prints and returns in one of two processes."""
    codes = []
    monkeypatch.setattr(processes.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", codes.append)
    with contextlib.suppress(type(error)), processes.ends_all():
        raise error
    return codes


def test_a_process_that_is_gone_is_a_sentence_in_the_others(monkeypatch, capsys):
    said = []
    monkeypatch.setattr(processes.last_words, "say", said.append)
    error = RuntimeError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    assert ended(monkeypatch, error) == [1]
    [line] = said
    assert line.startswith("error: another process of this job has ended") and "Gloo" in line
    assert "\n" not in line
    assert ended(monkeypatch, SystemExit("error: a mistake")) == [1]
    assert said == [line, "error: a mistake"]
    assert ended(monkeypatch, RuntimeError("a defect")) == [1]
    assert "Traceback" in capsys.readouterr().err


# Waits for another process that never comes, for two seconds in place of five minutes.
NEVER = """
from toco_jax.runtime import processes
processes._MEETING = 2
processes.join(coordinator="127.0.0.1:{port}", num_processes=2, process_id={number})
"""


def test_a_process_that_never_comes_ends_the_others_with_a_sentence():
    waiting = [
        subprocess.Popen(
            [sys.executable, "-c", NEVER.format(port=free_port(), number=number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    for process in waiting:
        said = process.communicate(timeout=120)[0]
        assert said.startswith("error: not all 2 processes of this job have come within 2 s")
        assert (process.returncode, said.count("\n")) == (1, 1)


def test_an_error_alone_is_an_ordinary_error():
    with pytest.raises(ZeroDivisionError), processes.ends_all():
        raise ZeroDivisionError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_and_given_back(number, capfd):
    before = signal.getsignal(number)
    with processes.Preemption() as preemption:
        assert not preemption.stops(1)
        os.kill(os.getpid(), number)
        assert preemption.stops(2)
        told = "Ctrl-C again ends without saving" in capfd.readouterr().err
        assert told == (number == signal.SIGINT)
    assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
    with processes.Preemption():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_interrupts_stay_ignored():
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with processes.Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGINT)
            assert not preemption.stops(1)
    finally:
        signal.signal(signal.SIGINT, earlier)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_goes_on(number, tiny_config, tmp_path):
    config, steps = tiny_config(total_steps=6, save_every=100), []

    def before(at):
        steps.append(at)
        if len(steps) == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(processes.Preempted, match="stopped and saved at step 3 of"):
        stand_in_run.train(config, tmp_path, before=before)
    assert stand_in_run.train(config, tmp_path, before=before) == {"finished": True}
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_told_before_its_first_step_takes_none(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.Preemption, "stops", lambda self, step: step == 0)
    with pytest.raises(processes.Preempted, match="stopped before step 1 of"):
        stand_in_run.train(tiny_config(), tmp_path, before=lambda at: pytest.fail("a step"))


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGTERM, RESTART, "the same command goes on"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_command_that_is_told_within_its_imports_ends_cleanly(number, code, line, tmp_path):
    process = subprocess.Popen(
        [*(sys.executable, "-m", "toco_jax.main", "--config=configs/shapes.py", "--out"), tmp_path],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while "jaxlib" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == code and line in printed and "Traceback" not in printed
    assert not list(tmp_path.iterdir())
