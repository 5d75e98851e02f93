#!/usr/bin/env bash
# Trains on a Cloud TPU VM or on a slice of several: installs the package on every worker, then runs
# one process on each.
#
#     launch/tpu_pod.sh my-v5e-32 us-west4-a . --config=configs/voc.py --workdir=/mnt/nfs/runs/voc
#
# SOURCE is a checkout of the repository or a wheel built from it. What follows it goes to
# `python -m toco_jax.main`; the file of --config, relative to the current folder, is copied along.
# --workdir and the data must lie on a disk that every worker mounts at the same place. The script
# runs as long as the training does: start it inside tmux. Options of gcloud (project, internal
# addresses) go into its configuration or CLOUDSDK_ variables.
set -euo pipefail

usage() {
  echo "error: $1 is missing" >&2
  echo "usage: $0 TPU_NAME ZONE SOURCE --config=FILE[:variant] --workdir=DIR [--config.key=value ...]" >&2
  echo "example: $0 my-v5e-32 us-west4-a . --config=configs/voc.py --workdir=/mnt/nfs/runs/voc" >&2
  exit 2
}

[[ -n ${1:-} && $1 != -* ]] || usage "TPU_NAME"
[[ -n ${2:-} && $2 != -* ]] || usage "ZONE"
[[ -n ${3:-} && $3 != -* ]] || usage "SOURCE (a checkout or a wheel)"
tpu=$1 zone=$2 source=${3%/}
shift 3
config='' workdir=''
for argument; do
  case $argument in
    --config=?*) config=${argument#*=} ;;
    --workdir=?*) workdir=${argument#*=} ;;
  esac
done
[[ -n $config ]] || usage "--config=FILE"
# Absolute, because the folder it would be relative to is made anew by every launch.
[[ $workdir == /* ]] || usage "--workdir=DIR, an absolute path,"
config=${config%%:*}
[[ -f $config && $config != /* ]] || usage "$config, relative to $PWD,"

# In the home folder of the login on every worker.
remote=toco_jax_launch

on_workers() {
  gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="$1"
}

# One archive, so that copying is one file a worker and leaves out runs, data and history.
if [[ -d $source ]]; then
  files=(-C "$source" pyproject.toml setup.py README.md LICENSE configs toco_jax) package="./${remote}[tpu]"
elif [[ -f $source ]]; then
  wheel=$(basename "$source")
  files=(-C "$(dirname "$source")" "$wheel") package="./$remote/${wheel}[tpu]"
else
  usage "$source"
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
tar -czf "$staging/$remote.tar.gz" --exclude=__pycache__ "${files[@]}" -C "$PWD" "$config"
gcloud compute tpus tpu-vm scp "$staging/$remote.tar.gz" "$tpu:" --zone="$zone" --worker=all
# uv, because the images' own Python may be older than the package needs.
on_workers "set -e; rm -rf $remote; mkdir $remote; tar -xzf $remote.tar.gz -C $remote;\
 PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv;\
 python3 -m uv venv --quiet --python 3.12 $remote/.venv;\
 python3 -m uv pip install --quiet --python $remote/.venv '$package'"

# Python exits with this when it was told to stop and has saved: it goes on if started again.
preempted=75

child='' stopping='' interrupted=''
stop() {
  stopping=yes interrupted=yes
  # Ending ssh would leave the workers running, so the notice goes to them, once they have begun.
  [[ -z $child ]] || on_workers "for _ in \$(seq 60); do\
 { kill -TERM \$(cat $remote/main.pid); } 2> /dev/null && exit; sleep 1; done; exit 1" || true
}
trap stop TERM INT HUP

arguments=$(printf ' %q' "$@")
while [[ -z $stopping ]]; do
  # `exec` keeps the number that was written down.
  on_workers "cd $remote; echo \$\$ > main.pid;\
 exec .venv/bin/python -m toco_jax.main$arguments --distributed" &
  # Told before there was anything to stop; later the trap does it.
  early=$stopping child=$!
  [[ -z $early ]] || stop
  # `wait` returns at once when a trap runs; the exit code is that of the last, undisturbed one.
  interrupted=yes
  while [[ -n $interrupted ]]; do
    interrupted='' code=0
    wait "$child" || code=$?
  done
  # gcloud exits with the first worker's code that is not 0.
  [[ $code == "$preempted" ]] || exit "$code"
done
# The notice was for this script too: whoever gave it decides when to start again.
exit "$preempted"
