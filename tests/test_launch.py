"""The launch files: what they start, and what they do when a run is preempted.

The programs around the scripts (python, srun, scontrol, gcloud ...) are stand-ins on PATH that
write down how they were called and exit with the codes that a test gives them. `jobset.yaml` is
checked against the fields of the API, and its parts against each other.
"""

import os
import pathlib
import select
import signal
import subprocess
import sys
import tarfile

import jsonschema
import pytest
import yaml
from jobset_schema import RESOURCES

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = ("workstation.sh", "slurm.sbatch", "tpu_pod.sh")
MAIN = ["python", "-m", "toco_jax.main"]
RUN = ["--config=configs/voc.py:vit_base", "--workdir=/runs/voc", "--config.cam_scales=(1.0, 0.5)"]
SRUN = ["srun", "--cpus-per-task=8", "--kill-on-bad-exit=0", "--wait=300"]
SLURM = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "8"}
SQUEUE = ["squeue", "--noheader", "--jobs=17", "--format=%T"]

# Writes down its name and arguments and ends with the next of its codes; where that is "wait" it
# tells the test through a pipe that it runs, and waits for SIGTERM.
STAND_IN = r"""#!/bin/bash
name=$(basename "$0")
{ printf '%s\037' "$name" "$@"; printf '\036'; } >> "$STAGE/log"
code=$(head -n 1 "$STAGE/$name.codes" 2> /dev/null)
[[ -z $code ]] || sed -i 1d "$STAGE/$name.codes"
if [[ $code == wait ]]; then
  echo $$ > "$STAGE/$name.pid"
  trap 'kill $!; printf "SIGTERM\037%s\037\036" "$name" >> "$STAGE/log"; exit 75' TERM
  sleep 60 &
  echo > "$STAGE/waiting"
  wait
fi
case $name in
  squeue) cat "$STAGE/state" ;;
  scancel) kill -TERM "$(cat "$STAGE/srun.pid")" ;;
  gcloud) # One worker, whose home is a folder.
    cd "$STAGE/worker" || exit 1
    [[ $4 != scp ]] || cp "$5" .
    command=${!#}
    [[ $4 != ssh ]] || exec bash -c "${command#--command=}" ;;
  python3) # `-m uv venv FOLDER` makes a python.
    if [[ $3 == venv ]]; then mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python"; fi ;;
esac
exit "${code:-0}"
"""
PROGRAMS = ("python", "python3", "srun", "scontrol", "squeue", "scancel", "gcloud")


class Stage:
    """A folder of stand-ins, the codes they exit with and what they wrote down."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "worker").mkdir()
        (folder / "state").write_text("RUNNING\n")
        os.mkfifo(folder / "waiting")
        for name in PROGRAMS:
            program = folder / "bin" / name
            program.write_text(STAND_IN)
            program.chmod(0o755)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "STAGE": str(folder), "TMPDIR": str(folder)}

    def codes(self, name: str, *codes: int | str) -> None:
        """What a program exits with, call by call; 0 once they are used up."""
        (self.folder / f"{name}.codes").write_text("".join(f"{code}\n" for code in codes))

    def start(self, script: str, *arguments: str, cwd: pathlib.Path | None = None, **environment):
        """Starts a launch script among the stand-ins."""
        return subprocess.Popen(
            ["bash", LAUNCH / script, *arguments],
            env=self.environment | environment,
            cwd=cwd or self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *arguments: str, **options) -> tuple[int, str]:
        """Exit code and output of a launch script."""
        process = self.start(script, *arguments, **options)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    def preempt(self, script: str, *arguments: str, **options) -> int:
        """Sends SIGTERM to a launch script once a stand-in waits; its exit code."""
        waiting = os.open(self.folder / "waiting", os.O_RDONLY | os.O_NONBLOCK)
        process = self.start(script, *arguments, **options)
        try:
            if not select.select([waiting], [], [], 60)[0]:
                process.kill()
                pytest.fail(f"no stand-in waits: {process.communicate()[0]}")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(waiting)
        return process.returncode

    @property
    def calls(self) -> list[list[str]]:
        """The command lines so far, and who received SIGTERM."""
        records = (self.folder / "log").read_text().split("\x1e")[:-1]
        return [record.split("\x1f")[:-1] for record in records]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    command = [shellcheck, LAUNCH / script]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_of_the_shell(script):
    assert "\nset -euo pipefail\n" in (LAUNCH / script).read_text()


@pytest.mark.parametrize(
    ("script", "arguments", "missing"),
    [
        ("workstation.sh", [], "--config=FILE"),
        ("workstation.sh", ["--workdir=x"], "--config=FILE"),
        ("slurm.sbatch", ["--workdir=x"], "--config=FILE"),
        ("slurm.sbatch", ["--config=x"], "--workdir=DIR"),
        ("slurm.sbatch", RUN, "SLURM_JOB_ID"),
        ("tpu_pod.sh", RUN, "TPU_NAME"),
        ("tpu_pod.sh", ["pod", *RUN], "ZONE"),
        ("tpu_pod.sh", ["pod", "zone", *RUN], "SOURCE"),
        ("tpu_pod.sh", ["pod", "zone", ".", RUN[1]], "--config=FILE"),
        ("tpu_pod.sh", ["pod", "zone", ".", RUN[0], "--workdir=runs/voc"], "an absolute path"),
        ("tpu_pod.sh", ["pod", "zone", ".", *RUN], "configs/voc.py"),
        ("tpu_pod.sh", ["pod", "zone", "no.whl", f"--config={__file__}", RUN[1]], "test_launch.py"),
    ],
)
def test_usage_names_what_is_missing(stage, script, arguments, missing):
    code, output = stage.run(script, *arguments)
    error, usage, example = output.splitlines()
    assert code == 2 and missing in error and error.endswith("is missing")
    assert usage.startswith("usage: ") and "--config=FILE" in usage
    assert example.startswith("example: ") and "--config=configs/voc.py" in example
    assert not (stage.folder / "log").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_may_be_long(stage, script):
    """More than a pipe holds."""
    target = ["pod", "zone", "."] if script == "tpu_pod.sh" else []
    long = [f"--config.key_{i}={'x' * 100}" for i in range(1000)]
    code, output = stage.run(script, *target, *RUN, *long, cwd=LAUNCH.parent, **SLURM)
    assert code == 0, output


@pytest.mark.parametrize("code", [0, 1, 139])
def test_workstation_ends_with_the_code_of_main(stage, code):
    stage.codes("python", code)
    assert stage.run("workstation.sh", *RUN)[0] == code
    assert stage.calls == [[*MAIN, *RUN]]


def test_workstation_restarts_after_75(stage):
    stage.codes("python", 75, 75, 1)
    assert stage.run("workstation.sh", *RUN)[0] == 1
    assert stage.calls == [[*MAIN, *RUN]] * 3


def test_workstation_hands_sigterm_on_and_stops(stage):
    stage.codes("python", "wait", 0)
    assert stage.preempt("workstation.sh", *RUN) == 75
    assert stage.calls == [[*MAIN, *RUN], ["SIGTERM", "python"]]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_slurm_ends_with_the_code_of_the_step(stage, code):
    stage.codes("srun", code)
    assert stage.run("slurm.sbatch", *RUN, **SLURM)[0] == code
    assert stage.calls == [[*SRUN, *MAIN, *RUN, "--distributed"]]


def test_slurm_requeues_after_75(stage):
    stage.codes("srun", 75)
    assert stage.run("slurm.sbatch", *RUN, **SLURM)[0] == 75
    assert stage.calls[1:] == [SQUEUE, ["scontrol", "requeue", "17"]]


def test_slurm_requeues_when_the_state_is_unknown(stage):
    stage.codes("srun", 75)
    stage.codes("squeue", 1)
    (stage.folder / "state").write_text("")
    stage.run("slurm.sbatch", *RUN, **SLURM)
    assert stage.calls[1:] == [SQUEUE, ["scontrol", "requeue", "17"]]


def test_slurm_leaves_a_cancelled_job_alone(stage):
    stage.codes("srun", 75)
    (stage.folder / "state").write_text("COMPLETING\n")
    assert stage.run("slurm.sbatch", *RUN, **SLURM)[0] == 75
    assert stage.calls[1:] == [SQUEUE]


def test_slurm_sends_sigterm_to_the_step(stage):
    stage.codes("srun", "wait")
    assert stage.preempt("slurm.sbatch", *RUN, **SLURM) == 75
    signalled = [["scancel", "--signal=TERM", "17"], ["SIGTERM", "srun"]]
    assert stage.calls[1:] == [*signalled, SQUEUE, ["scontrol", "requeue", "17"]]


@pytest.mark.parametrize(("gpus", "devices"), [("1", "0"), ("8", "0,1,2,3,4,5,6,7"), (None, "")])
def test_slurm_gives_a_process_all_gpus_of_its_node(stage, gpus, devices):
    srun = stage.folder / "bin" / "srun"
    srun.write_text('#!/bin/bash\nprintf %s "${JAX_LOCAL_DEVICE_IDS:-}" > "$STAGE/devices"\n')
    environment = SLURM | ({"SLURM_GPUS_ON_NODE": gpus} if gpus else {})
    assert stage.run("slurm.sbatch", *RUN, **environment)[0] == 0
    assert (stage.folder / "devices").read_text() == devices


def test_slurm_directives():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--ntasks-per-node=1", "--requeue", "--signal=TERM@120"} <= set(directives)
    # SLURM reads none after the first command.
    assert lines.index("set -euo pipefail") > max(
        i for i, line in enumerate(lines) if line.startswith("#SBATCH")
    )


@pytest.fixture
def checkout(tmp_path):
    """What of a checkout goes to the workers, and what does not."""
    folder = tmp_path / "checkout"
    for name in ("toco_jax/main.py", "toco_jax/__pycache__/main.pyc", "configs/voc.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "toco.whl", "notes.txt"):
        (folder / name).touch()
    return folder


def launch_tpu(stage, checkout, source=".", run=Stage.run):
    """Launches and parts the calls: gcloud's verb with its last argument, and all others."""
    code = run(stage, "tpu_pod.sh", "pod", "us-west4-a", source, *RUN, cwd=checkout)
    gcloud = [call for call in stage.calls if call[0] == "gcloud"]
    for call in gcloud:
        assert call[1:4] == ["compute", "tpus", "tpu-vm"]
        assert {"--zone=us-west4-a", "--worker=all"} < set(call)
        assert call[5] == "pod" if call[4] == "ssh" else call[6] == "pod:"
    others = [call for call in stage.calls if call[0] != "gcloud"]
    return code, [(call[4], call[-1].removeprefix("--command=")) for call in gcloud], others


UV = ["python3", "-m", "uv"]
TPU_RUN = [*MAIN, *RUN, "--distributed"]


def installation(package):
    """What a worker runs before training."""
    return [
        ["python3", "-m", "pip", "install", "--quiet", "--user", "uv"],
        [*UV, "venv", "--quiet", "--python", "3.12", "toco_jax_launch/.venv"],
        [*UV, "pip", "install", "--quiet", "--python", "toco_jax_launch/.venv", package],
    ]


def test_tpu_installs_once_and_restarts_after_75(stage, checkout):
    stage.codes("python", 75, 75, 0)
    (code, _), gcloud, others = launch_tpu(stage, checkout)
    assert code == 0
    assert others == [*installation("./toco_jax_launch[tpu]"), *[TPU_RUN] * 3]
    assert [verb for verb, _ in gcloud] == ["scp", *["ssh"] * 4]
    assert gcloud[2] == gcloud[3] == gcloud[4]


def test_tpu_copies_what_a_run_needs(stage, checkout):
    launch_tpu(stage, checkout)
    with tarfile.open(stage.folder / "worker" / "toco_jax_launch.tar.gz") as archive:
        names = {member.name for member in archive if member.isfile()}
    package = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "toco_jax/main.py"}
    assert names == package | {"configs/voc.py"}
    assert (stage.folder / "worker" / "toco_jax_launch" / "configs" / "voc.py").exists()
    assert not list(stage.folder.glob("tmp.*")), "the local copy was left behind"


def test_tpu_takes_a_wheel(stage, checkout):
    _, _, others = launch_tpu(stage, checkout, source="toco.whl")
    assert others == [*installation("./toco_jax_launch/toco.whl[tpu]"), TPU_RUN]
    folder = stage.folder / "worker" / "toco_jax_launch"
    assert {path.name for path in folder.iterdir()} == {"toco.whl", "configs", ".venv", "main.pid"}


@pytest.mark.parametrize("code", [1, 134])
def test_tpu_ends_with_the_code_of_main(stage, checkout, code):
    stage.codes("python", code)
    assert launch_tpu(stage, checkout)[0][0] == code
    assert stage.calls.count(TPU_RUN) == 1


def test_tpu_does_not_train_where_installing_fails(stage, checkout):
    stage.codes("python3", 0, 0, 1)
    assert launch_tpu(stage, checkout)[0][0] == 1
    assert TPU_RUN not in stage.calls


def test_tpu_sends_sigterm_to_the_workers(stage, checkout):
    stage.codes("python", "wait", 0)
    code, gcloud, others = launch_tpu(stage, checkout, run=Stage.preempt)
    assert code == 75
    assert others[3:] == [TPU_RUN, ["SIGTERM", "python"]]
    # On a worker whose run has ended and not begun again the notice waits for it.
    kind, notice = gcloud[-1]
    number = stage.folder / "toco_jax_launch" / "main.pid"
    number.parent.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    number.write_text(f"{ended.pid}\n")
    worker = subprocess.Popen(["sh", "-c", notice], cwd=stage.folder)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=0.5)
    run = subprocess.Popen(["sleep", "60"])
    number.write_text(f"{run.pid}\n")
    assert kind == "ssh" and worker.wait(timeout=30) == 0
    assert run.wait(timeout=30) == -signal.SIGTERM


@pytest.fixture(scope="module")
def manifests():
    """The resources of jobset.yaml by kind."""
    documents = list(yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


@pytest.fixture(scope="module")
def job(manifests):
    """The job of the workers."""
    (workers,) = manifests["JobSet"]["spec"]["replicatedJobs"]
    assert workers["replicas"] == 1
    return workers["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    """What every worker is."""
    return job["template"]["spec"]


def test_jobset_has_the_fields_of_the_api_and_no_others(manifests):
    assert set(manifests) == set(RESOURCES)
    for kind, manifest in manifests.items():
        jsonschema.Draft202012Validator.check_schema(RESOURCES[kind])
        jsonschema.validate(manifest, RESOURCES[kind])


def test_jobset_starts_as_many_processes_as_jax_waits_for(job):
    # JAX takes `parallelism` for their number and the completion index for a process's own.
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] >= 2


def test_jobset_runs_main(pod):
    (main,) = pod["containers"]
    assert main["command"] == MAIN
    assert main["args"][-1] == "--distributed"
    given = dict(argument.partition("=")[::2] for argument in main["args"])
    assert (LAUNCH.parent / given["--config"]).is_file()
    mounts = [
        f"{mount['mountPath']}/" for mount in main["volumeMounts"] if mount["name"] == "shared"
    ]
    for key in ("--workdir", "--config.data.root"):
        assert given[key].startswith(*mounts)


def test_jobset_batch_splits_over_all_gpus(job, pod, voc_config):
    (main,) = pod["containers"]
    devices = job["parallelism"] * main["resources"]["limits"]["nvidia.com/gpu"]
    (batch_size,) = [
        int(a.partition("=")[2]) for a in main["args"] if a.startswith("--config.batch_size=")
    ]
    assert batch_size % (devices * voc_config().group_size) == 0


def test_jobset_processes_find_each_other(manifests, pod):
    (main,) = pod["containers"]
    (port,) = main["ports"]
    environment = {variable["name"]: variable["value"] for variable in main["env"]}
    assert environment["JAX_COORDINATOR_PORT"] == str(port["containerPort"])
    # Names in DNS, also while the first process is still waiting for the others.
    assert all(manifests["JobSet"]["spec"]["network"].values())


def test_jobset_processes_may_read_their_pod_and_job(manifests, pod):
    account = manifests["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    assert [s["name"] for s in manifests["RoleBinding"]["subjects"]] == [account]
    assert manifests["RoleBinding"]["roleRef"]["name"] == manifests["Role"]["metadata"]["name"]
    allowed = {
        (group, kind, verb)
        for rule in manifests["Role"]["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("", "pods", "list"), ("batch", "jobs", "get")} <= allowed
    assert not any("*" in right for right in allowed)


def test_jobset_volumes_are_shared(manifests, pod):
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"shared": manifests["PersistentVolumeClaim"]["metadata"]["name"]}
    assert manifests["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    (main,) = pod["containers"]
    assert {m["name"] for m in main["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def reason_of_failure(job, *, exit_code=None, condition=None):
    """Why a job fails when a pod ends so, by the rules of the job controller."""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"operator": "In", "values": []})
        conditions = [c["type"] for c in rule.get("onPodConditions", [])]
        listed = exit_code in codes["values"]
        if listed == (codes["operator"] == "In") or condition in conditions:
            assert rule["action"] == "FailJob"
            return "PodFailurePolicy"
    assert job["backoffLimit"] == 0
    return "BackoffLimitExceeded"


def test_jobset_counts_failures_but_not_preemptions(manifests, job, pod):
    policy = manifests["JobSet"]["spec"]["failurePolicy"]

    def counts(**end):
        reason = reason_of_failure(job, **end)
        for rule in policy["rules"]:
            if reason in rule["onJobFailureReasons"]:
                return rule["action"] != "RestartJobSetAndIgnoreMaxRestarts"
        return True

    assert not counts(exit_code=75)
    assert not counts(exit_code=143, condition="DisruptionTarget")
    assert all(counts(exit_code=code) for code in (1, 2, 134, 137, 143))
    assert policy["maxRestarts"] > 0
    # New processes only once the old ones, which may still be saving, are gone.
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert pod["terminationGracePeriodSeconds"] >= 120
    (named,) = [r["onExitCodes"] for r in job["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    assert named["containerName"] in [container["name"] for container in pod["containers"]]
