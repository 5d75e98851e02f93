"""Work beside the main thing, whose failure must not end a training of days."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator

from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError, clipped


@contextlib.contextmanager
def aside(path: pathlib.Path) -> Iterator[None]:
    """Lets the caller go on if `path` cannot be written in the context; a line says why.

    What the system or a damaged file refuses is printed. Anything else is a defect of the program:
    it becomes a Python warning, which is an error where warnings are, as in tests.
    """
    try:
        yield
    except (OSError, UserError, MemoryError) as error:
        say(f"warning: {path} was not written ({clipped(error, 300)})", error=True)
    except Exception as error:
        message = f"{path} was not written, by a defect of toco_jax: {error!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
