"""The configuration on a command line: what is not there is one sentence and exit code 1."""

import ast
import subprocess
import sys

import pytest

from toco_jax.cli import command_line
from toco_jax.config import ConfigError

VOC = "--config=configs/voc.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=nowhere.py"], "--config=nowhere.py: no Python file 'nowhere.py'; use one"),
        (["-config", "nowhere.py:a"], "--config=nowhere.py:a: no Python file 'nowhere.py'"),
        (["--config=README.md"], "no Python file 'README.md'"),
        (["--config"], "no Python file ''"),
        (["--config=configs/voc.py:vit_huge"], "unknown variant 'vit_huge': use one of deit_base"),
        (
            ["--config=configs/shapes.py:a"],
            "configs/shapes.py has no variants; use",
        ),
        ([VOC, "--config.steps=3"], "no key 'steps'; use one of total_steps"),
        ([VOC, "-config.data.rot", "here"], "no key 'data.rot'; use one of data.root"),
        ([VOC, "--noconfig.published"], "no key 'published'; use one of as_published"),
        ([VOC, "--config.seed.more=1"], "no key 'seed.more'; use one of"),
        (["--config.zzz=1", VOC], "no key 'zzz'; use one of as_published, aux_layer, backbone"),
    ],
)
def test_what_is_not_there(arguments, message):
    with pytest.raises(ConfigError) as refused:
        command_line.check(arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--workdir=here", "--config=configs/voc.py:vit_base", "--config.data.root=there"],
        ["--config", "configs/voc.py", "--config.loss_weights.ctc=((0, 0.0),)"],
        [VOC, "--noconfig.as_published", "--config.cam_scales[0]=1.0", "rest"],
        [VOC, "--config.accumulate=2", "--noconfig.shard_optimizer", "--config.data.num_threads=1"],
    ],
)
def test_what_is_there(arguments):
    command_line.check(arguments)


# A program that prints how the configuration of its command line is executed.
PROGRAM = """
from absl import flags
from toco_jax.cli import command_line

command_line.define_config()
command_line.run(lambda _: print(flags.FLAGS.config.machine.to_dict()))
"""


def test_keys_of_earlier_versions_go_on_working():
    earlier = ("accumulate=2", "low_memory=on", "shard_optimizer=True", "data.num_threads=3")
    options = [*(f"--config.{option}" for option in earlier), "--config.attention", "xla"]
    command = [sys.executable, "-c", PROGRAM, VOC, *options]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ast.literal_eval(ran.stdout) == {
        "attention": "xla",
        "low_memory": "on",
        "accumulate": 2,
        "shard_optimizer": True,
        "num_threads": 3,
    }


def test_a_command_ends_with_the_sentence():
    command = [sys.executable, "-m", "toco_jax.data.check", VOC, "--config.data.rot=here"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the configuration has no key 'data.rot'")
    assert ran.stderr.count("\n") == 1
