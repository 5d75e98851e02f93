#!/usr/bin/env bash
# Trains on one machine: one process over all of its GPUs (or TPU chips, or its CPU).
#
#     launch/workstation.sh --config=configs/voc.py --workdir=runs/voc
#
# All arguments go to `python -m toco_jax.main`. CUDA_VISIBLE_DEVICES limits the GPUs.
set -euo pipefail

usage() {
  echo "error: $1 is missing" >&2
  echo "usage: $0 --config=FILE[:variant] [--workdir=DIR] [--config.key=value ...]" >&2
  echo "example: $0 --config=configs/voc.py --workdir=runs/voc" >&2
  exit 2
}

[[ " $*" == *" --config="[!\ ]* ]] || usage "--config=FILE"

# Python exits with this when it was told to stop and has saved: it goes on if started again.
preempted=75

child='' stopping='' interrupted=''
stop() {
  stopping=yes interrupted=yes
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
# A shell does not hand signals on by itself. Ctrl-C saves too: a child in the background of a
# script does not see it.
trap stop TERM INT HUP

while [[ -z $stopping ]]; do
  python -m toco_jax.main "$@" &
  # Told before there was anything to stop; later the trap does it.
  early=$stopping child=$!
  [[ -z $early ]] || stop
  # `wait` returns at once when a trap runs; the exit code is that of the last, undisturbed one.
  interrupted=yes
  while [[ -n $interrupted ]]; do
    interrupted='' code=0
    wait "$child" || code=$?
  done
  [[ $code == "$preempted" ]] || exit "$code"
done
# The notice was for this script too: whoever gave it decides when to start again.
exit "$preempted"
