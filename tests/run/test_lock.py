"""The lock of a run's folder: one owner, dead owners recognised, another host's watched."""

import json
import os
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from toco_jax.run import lock

HOLD = """
import pathlib, sys, time
from toco_jax.run.lock import locked
with locked(pathlib.Path(sys.argv[1]), beat=0.05):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def write(folder, **changes):
    """Writes the lock of a living process of this host, but for `changes`."""
    own = {"host": socket.gethostname(), "process": os.getpid(), "beat": 0}
    own |= {"started": psutil.Process().create_time()}
    (folder / lock.LOCK_FILE).write_text(json.dumps(own | changes))


def test_the_lock_is_there_while_it_is_held_and_gone_after(tmp_path):
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_second_process_is_refused_by_name_and_the_first_keeps_its_lock(tmp_path, holder):
    with (
        pytest.raises(lock.LockError, match=f"process {holder.pid} on host"),
        lock.locked(tmp_path),
    ):
        pass
    assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["process"] == holder.pid


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock.locked(tmp_path, watch=3600):
        pass


def test_a_reused_process_number_is_not_the_owner(tmp_path):
    write(tmp_path, started=1.0)
    with lock.locked(tmp_path, watch=3600):
        pass


@pytest.mark.parametrize("content", ["", "[1]", '{"host": 1'])
def test_a_cut_lock_that_nobody_keeps_alive_is_taken_over(tmp_path, content):
    (tmp_path / lock.LOCK_FILE).write_text(content)
    with lock.locked(tmp_path, watch=0.2):
        pass


def test_a_silent_lock_of_another_host_is_taken_over(tmp_path, capsys):
    write(tmp_path, host="elsewhere")
    with lock.locked(tmp_path, watch=0.2):
        pass
    assert "was left by host elsewhere: watching it for 0 s" in capsys.readouterr().out


def test_a_lock_that_another_host_keeps_alive_is_refused(tmp_path):
    write(tmp_path, host="elsewhere")
    beat = threading.Timer(0.3, write, (tmp_path,), {"host": "elsewhere", "beat": 1})
    beat.start()
    with pytest.raises(lock.LockError, match="on host elsewhere"), lock.locked(tmp_path, watch=60):
        pass
    beat.join()


def test_the_owner_gives_signs_of_life(tmp_path):
    with lock.locked(tmp_path, beat=0.01):
        beats = set()
        while len(beats) < 3:
            beats.add(json.loads((tmp_path / lock.LOCK_FILE).read_text())["beat"])
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_taken_over_is_left_to_its_new_owner(tmp_path):
    with lock.locked(tmp_path, beat=0.01):
        write(tmp_path, host="elsewhere")
    assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["host"] == "elsewhere"
