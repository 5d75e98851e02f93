"""Processes that fail together, and that notice before the first step what they do not share."""

import json
import os
import sys

import jax
import pytest

from toco_jax.cli import commands
from toco_jax.cli.verbs import train
from toco_jax.config import ConfigError
from toco_jax.runtime import agreement, processes


@pytest.fixture
def job(monkeypatch):
    """Function that makes this process the first of several; the others tell what they are given.

    A text is told as it is; values are told in the place of those of this process.
    """

    def join(*others):
        def gather(content):
            told = [
                other.encode() if isinstance(other, str) else json.dumps(other).encode()
                for other in others
            ]
            return [content, *told]

        monkeypatch.setattr(processes, "gather", gather)
        monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))

    return join


def test_a_single_process_raises_its_own_error():
    with pytest.raises(ConfigError, match="seed=-1 is wrong"), agreement.together():
        raise ConfigError("seed=-1 is wrong")
    with agreement.together():
        pass
    agreement.check_same({"seed": 1})


def test_an_error_of_one_process_is_that_of_all(job):
    job("", "data/val.txt is missing")
    message = "process 2 of 3 cannot go on: data/val.txt is missing"
    with pytest.raises(processes.JobError, match=message), agreement.together():
        pass
    job("", "")
    with (
        pytest.raises(processes.JobError, match=r"process 0 of 3 .*seed=-1") as raised,
        agreement.together(),
    ):
        raise ConfigError("seed=-1 is wrong")
    assert isinstance(raised.value.__cause__, ConfigError)
    job("seed=-1 is wrong")
    with (
        pytest.raises(processes.JobError, match=r"^seed=-1 is wrong$"),
        agreement.together(),
    ):
        raise ConfigError("seed=-1 is wrong")


def test_a_defect_is_not_shared(job):
    job("")
    with pytest.raises(ZeroDivisionError), agreement.together():
        raise ZeroDivisionError


def test_what_differs_is_named_with_its_values(job):
    job({"seed": "0", "code": "'ab'"}, {"seed": "1", "code": "'ab'"})
    agreement_message = r"differ in seed \(0 in process 0, 1 in process 2\): start all of them"
    with pytest.raises(processes.JobError, match=agreement_message):
        agreement.check_same({"seed": 0, "code": "ab"})
    job({"seed": "0"})
    agreement.check_same({"seed": 0})
    job({str(i): "1" for i in range(20)})
    with pytest.raises(processes.JobError, match=r"and 12 more") as raised:
        agreement.check_same({str(i): 0 for i in range(20)})
    assert len(str(raised.value)) < 500


def test_the_code_is_told_apart(monkeypatch, tmp_path):
    found = agreement.code()
    assert found["JAX"] == jax.__version__ and len(found["the source of toco_jax"]) == 12
    hashes = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "module.py").write_text(text)
        monkeypatch.setattr(agreement, "_PACKAGE", tmp_path)
        agreement.code.cache_clear()
        hashes.append(agreement.code()["the source of toco_jax"])
    agreement.code.cache_clear()
    assert len({*hashes, found["the source of toco_jax"]}) == 3


def test_an_error_of_all_processes_ends_each_in_order(job, monkeypatch):
    job("x")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", lambda code: sys.exit(f"at once with {code}"))
    for error, message in (
        (processes.JobError("the seeds differ"), "the seeds differ"),
        (ConfigError("of one alone"), "at once with 1"),
    ):
        with pytest.raises(SystemExit, match=message), processes.ends_all():
            try:
                raise error
            except ValueError as told:
                sys.exit(f"error: {told}")


def test_a_key_that_one_process_alone_does_not_know_is_told_to_all_of_them(job, monkeypatch):
    meetings = []
    monkeypatch.setattr(processes, "join", lambda **_: meetings.append("met") or True)
    right, wrong = (commands.read("train", ["shapes", word]) for word in ("seed=1", "seeed=1"))
    with pytest.raises(ConfigError, match="no key 'seeed'"):
        train.configured(wrong)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    job("")
    assert train.configured(right).seed == 1
    with pytest.raises(processes.JobError, match=r"process 0 of 2 cannot go on: .*no key 'seeed'"):
        train.configured(wrong)
    job("it has no key 'seeed'")
    with pytest.raises(processes.JobError, match="process 1 of 2 cannot go on: it has no key"):
        train.configured(right)
    assert len(meetings) == 4
