"""Has several processes of one job fail together, and checks that they are about to do the same."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

import jax

from toco_jax.runtime import processes
from toco_jax.runtime.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]


@contextmanager
def together() -> Iterator[None]:
    """Raises a user's mistake, or a file that one process cannot use, in all processes of the job.

    All of them have to enter and leave it, and nothing within may wait for another process. A
    single process raises what it raised.

    Raises:
        JobError: one of several processes failed; the message names it and says why.
    """
    failed: Exception | None = None
    try:
        yield
    except (UserError, OSError) as error:
        if jax.process_count() == 1:
            raise
        failed = error
    messages = [content.decode() for content in processes.gather(_message(failed).encode())]
    if not any(messages):
        return
    if len(set(messages)) == 1:
        raise processes.JobError(messages[0]) from failed
    number = next(i for i, message in enumerate(messages) if message)
    raise processes.JobError(
        f"process {number} of {len(messages)} cannot go on: {messages[number]}"
    ) from failed


def _message(error: Exception | None) -> str:
    return "" if error is None else str(error) or type(error).__name__


def check_same(values: Mapping[str, object]) -> None:
    """Checks that all processes of the job hold the same values.

    Args:
        values: JSON values, such as numbers, texts and hashes of long ones, by what they are called
            in the message.

    Raises:
        JobError: in all processes, with what differs and its values.
    """
    content = json.dumps({name: repr(value) for name, value in values.items()}).encode()
    first, *others = [json.loads(other) for other in processes.gather(content)]
    differing = [
        f"{name} ({first.get(name)} in process 0, {other.get(name)} in process {number})"
        for name in dict.fromkeys([*first, *(name for other in others for name in other)])
        for number, other in list(enumerate(others, 1))
        if other.get(name) != first.get(name)
    ]
    if not differing:
        return
    more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
    raise processes.JobError(
        f"the processes of this job differ in {', '.join(differing[:8])}{more}: start all of them "
        "with the same command, code, data and folder"
    )


def digest(*parts: bytes | str) -> str:
    """Returns a short hash that tells texts apart."""
    hashed = hashlib.blake2b(digest_size=6)
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        hashed.update(b"%d " % len(content) + content)
    return hashed.hexdigest()


@functools.cache
def code() -> dict[str, str]:
    """Returns the versions of JAX and of this package, with a hash of the package's source text."""
    try:
        version = metadata.version("toco_jax")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        version = "not installed"
    files = sorted(_PACKAGE.rglob("*.py"))
    parts = [part for path in files for part in (path.name, path.read_bytes())]
    return {"JAX": jax.__version__, "toco_jax": version, "the source of toco_jax": digest(*parts)}
