"""Published weights by address: from the cache, else downloaded once over HTTPS and verified."""

import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import rich.console
import rich.progress

from toco_jax.runtime.errors import MissingWeightsError, WeightsError
from toco_jax.runtime.outputs import make_folder

_DEIT = "https://dl.fbaipublicfiles.com/deit"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx"
_HUB = "https://huggingface.co"

ADDRESSES: Mapping[str, str] = {
    "deit_tiny": f"{_DEIT}/deit_tiny_patch16_224-a1311bcf.pth",
    "deit_small": f"{_DEIT}/deit_small_patch16_224-cd65a155.pth",
    "deit_base": f"{_DEIT}/deit_base_patch16_224-b5f2ef4d.pth",
    "vit_base": f"{_TIMM}/jx_vit_base_p16_224-80ecf9dd.pth",
    "vit_large": f"{_TIMM}/jx_vit_large_p16_224-4ee7a4dc.pth",
}
# The same weights as .safetensors, in case a published file is in the format of torch before 1.6,
# which timm's release script writes.
HUB_NAMES: Mapping[str, str] = {
    "deit_tiny": "hf:timm/deit_tiny_patch16_224.fb_in1k",
    "deit_small": "hf:timm/deit_small_patch16_224.fb_in1k",
    "deit_base": "hf:timm/deit_base_patch16_224.fb_in1k",
    "vit_base": "hf:timm/vit_base_patch16_224.orig_in21k_ft_in1k",
    "vit_large": "hf:google/vit-large-patch16-224",
}

_CHUNK = 2**20


def cache_folder() -> pathlib.Path:
    """`$TOCO_CACHE`, or `toco_jax` in the user's cache directory.

    Raises:
        MissingWeightsError: there is neither such a variable nor a home directory.
    """
    base = os.environ.get("TOCO_CACHE")
    if not base:
        home = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or home, "toco_jax")
    folder = pathlib.Path(os.path.expanduser(base))
    if str(folder).startswith("~"):
        raise MissingWeightsError(
            f"there is no home directory for downloaded weights ({folder}): set TOCO_CACHE to a "
            "folder for them, or give the path of a file"
        )
    return folder


def hub_address(name: str) -> str:
    """The address of `hf:owner/repository[/file]`; the file defaults to `model.safetensors`.

    Raises:
        WeightsError: the name is not of that form.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/([\w./-]+))?", name)
    if match is None or ".." in name:
        raise WeightsError(f"{name!r} is not of the form hf:owner/repository/file.safetensors")
    return f"{_HUB}/{match[1]}/resolve/main/{match[2] or 'model.safetensors'}"


def place_of(address: str) -> pathlib.Path:
    """Where the file of an address lies once it is cached."""
    path = urllib.parse.urlsplit(address).path
    if address.startswith(f"{_HUB}/"):
        return cache_folder() / "hf" / path.strip("/").replace("/resolve/main/", "/")
    return cache_folder() / path.rsplit("/", 1)[-1]


def promised_hash(address: str) -> str | None:
    """The first 8 hex digits of the SHA-256 that a file name carries, or None."""
    match = re.search(r"-([0-9a-f]{8})\.\w+$", address)
    return match[1] if match else None


def fetch(address: str, *, timeout: float = 30.0, attempts: int = 3) -> pathlib.Path:
    """The cached file of an address, downloaded where it is missing.

    Processes that ask at the same time wait for one download. The file appears under its name only
    when it is whole and its hash is right.

    Args:
        address: where the file is; its name may carry the start of its SHA-256, and the Hugging
            Face hub sends it along.
        timeout: seconds without any data after which an attempt is given up.
        attempts: how often a broken transfer is taken up again where it stopped.

    Raises:
        MissingWeightsError: the file cannot be downloaded; the message has the address and the
            place to put it by hand.
        WeightsError: the file has another hash than promised.
        OutputError: the cache cannot be written to.
    """
    place = place_of(address)
    if not place.exists():
        make_folder(place.parent, "TOCO_CACHE")
        with _only_process(place.with_name(f".{place.name}.lock")):
            if not place.exists():
                _download(address, place, timeout=timeout, attempts=attempts)
                return place
    _verify(place, promised_hash(address), f"the cached file {place}")
    return place


@contextlib.contextmanager
def _only_process(lock: pathlib.Path) -> Iterator[None]:
    """Holds an advisory lock; the system lets go of it when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two downloads at once are wasteful, not wrong
        yield
        return
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(address: str, place: pathlib.Path, *, timeout: float, attempts: int) -> None:
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    try:
        with part.open("wb") as file, rich.progress.Progress(*columns, console=console) as progress:
            task = progress.add_task(place.name)
            promised = _transfer(address, file, progress, task, timeout=timeout, attempts=attempts)
        _verify(part, promised, f"what {address} sent")
        part.replace(place)
    except (OSError, http.client.HTTPException) as error:
        raise MissingWeightsError(
            f"cannot download {address} ({error}). Download it elsewhere and put it at {place}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _transfer(
    address: str,
    file: BinaryIO,
    progress: rich.progress.Progress,
    task: rich.progress.TaskID,
    *,
    timeout: float,
    attempts: int,
) -> str | None:
    """Fills `file`, taking a broken transfer up where it stopped; returns the promised hash."""
    redirect = _Redirect()
    opener = urllib.request.build_opener(redirect)
    for attempt in range(1, attempts + 1):
        request = urllib.request.Request(address, headers={"User-Agent": "toco_jax"})
        if file.tell():
            request.add_header("Range", f"bytes={file.tell()}-")
        try:
            with opener.open(request, timeout=timeout) as response:
                if response.status != 206:
                    file.seek(0)
                    file.truncate()
                length = response.headers.get("Content-Length")
                total = None if length is None else file.tell() + int(length)
                progress.update(task, total=total, completed=file.tell())
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    progress.update(task, completed=file.tell())
            if total is None or file.tell() == total:
                return promised_hash(address) or redirect.hash
            error: Exception = OSError(f"broken off after {file.tell()} of {total} bytes")
        except urllib.error.HTTPError as refused:
            refused.close()
            raise
        except (OSError, http.client.HTTPException) as broken:
            error = broken
        if attempt == attempts:
            raise error
    raise AssertionError("unreachable")


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects, never from HTTPS to HTTP, and keeps the hash the hub sends with them."""

    hash: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"refused a redirect from HTTPS to {newurl}")
        tag = headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            self.hash = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _verify(path: pathlib.Path, promised: str | None, what: str) -> None:
    """Raises `WeightsError` when the file's SHA-256 does not start with `promised`."""
    if promised is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(promised):
        raise WeightsError(
            f"{what} has the SHA-256 {found}, but {promised} was promised: it is damaged or was "
            "replaced. Remove it and download it again"
        )
