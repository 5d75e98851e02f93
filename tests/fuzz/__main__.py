"""Changes small valid files in random places and reads them, to find what a reader cannot bear.

    python tests/fuzz --reader pth --minutes 10
    python tests/fuzz --reader pth --only 12345          reads the input of that number again

Every input must be read or refused by a `UserError` of one line that names the file, within seconds
and a memory in proportion to its size. Others are kept in the folder of the findings, each once for
each place in the code; an input depends on its number and the reader alone.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter

import numpy as np
import psutil
from changes import changed
from readers import READERS

from toco_jax.runtime.errors import UserError

SECONDS, MEMORY = 5, 2**28  # of the processor, in bytes: what any input of some kilobytes may take
BATCH = 500


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="read the input of this number alone")
    default = pathlib.Path(tempfile.gettempdir()) / "toco_jax_fuzz"
    parser.add_argument("--folder", type=pathlib.Path, default=default, help="of the findings")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        reader = READERS[args.reader](pathlib.Path(scratch))
        if args.only is not None:
            content = input_of(reader, args.only)
            print(f"{len(content)} bytes: {content[:300]!r}")
            print(reader.read(content))
            return
        fuzz(reader, args)


def input_of(reader, number: int) -> bytes:
    """The input of a number."""
    return changed(reader, np.random.default_rng(number))


def fuzz(reader, args: argparse.Namespace) -> None:
    """Reads inputs in processes that may die until the time is over, and reports."""
    context = multiprocessing.get_context("fork")
    current = context.Value("q", args.first)
    known: set[str] = set()
    total: Counter = Counter()
    seeds = context.Process(target=read_seeds, args=(reader,))
    seeds.start()
    seeds.join()
    if seeds.exitcode:  # an error of this program, which is printed
        sys.exit(1)
    start = time.monotonic()
    while time.monotonic() - start < 60 * args.minutes:
        first = current.value
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=read_batch, args=(reader, current, sender, args.folder))
        worker.start()
        sender.close()  # so that the end of the worker is the end of what it sends
        while found := received(receiver):
            kind, place, number = found
            total[kind] += 1
            if kind == "finding" and place not in known:
                known.add(place)
                print(f"{args.reader} {number}: {place}", flush=True)
        worker.join()
        if worker.exitcode:  # the time or the memory was over, or a library crashed
            number = current.value
            why = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else "exit"
            (args.folder / f"{args.reader}-{number}").write_bytes(input_of(reader, number))
            print(f"{args.reader} {number}: the process ended with {why}", flush=True)
            total["finding"] += 1
        current.value = max(current.value + 1, first + 1)
    seconds = time.monotonic() - start
    print(
        f"{args.reader}: {sum(total.values())} inputs in {seconds:.0f} s: {total['read']} read, "
        f"{total['refused']} refused, {total['finding']} findings"
    )
    sys.exit(1 if total["finding"] else 0)


def read_seeds(reader) -> None:
    """Reads the valid inputs, in a process of its own, because libraries start threads for it."""
    for content in reader.seeds:
        reader.read(content)


def received(receiver) -> tuple[str, str, int] | None:
    """What a worker says of its next input; None at its end."""
    try:
        return receiver.recv()
    except EOFError:
        return None


def read_batch(reader, current, sender, folder: pathlib.Path) -> None:
    """Reads inputs from the current number on; a call that takes too long kills the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # to which libraries write, too
        os.dup2(nowhere, stream)
    # What asks for more than that gets a MemoryError, and the machine goes on.
    room = psutil.Process().memory_info().vms + 16 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    first = current.value
    for number in range(first, first + BATCH):
        current.value = number
        content = input_of(reader, number)
        before = peak()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        kind, place = outcome(reader, content)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if number - first > 20 and peak() - before > MEMORY:  # libraries are loaded by then
            kind, place = "finding", f"{peak() - before:,} bytes of memory"
        if kind == "finding":
            (folder / f"{reader.name}-{number}").write_bytes(content)
        sender.send((kind, place, number))


def outcome(reader, content: bytes) -> tuple[str, str]:
    """Whether an input was read or refused, or the place of a finding."""
    try:
        reader.read(content)
    except UserError as error:
        message = str(error)
        is_short = len(message) < 5000 and "\n" not in message and message.isprintable()
        return ("refused", "") if is_short else ("finding", f"message {message[:200]!r}")
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "toco_jax/" in frame.filename][-1:] or frames[-1:]
        where = f"{pathlib.Path(ours[0].filename).name}:{ours[0].lineno}"
        return "finding", f"{type(error).__name__} at {where}: {str(error)[:100]!r}"
    return "read", ""


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
