"""Downloads published weights into a cache, once, and verifies their SHA-256."""

import contextlib
import http.client
import os
import pathlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import BinaryIO

import filelock

from toco_jax.runtime.errors import MissingWeightsError, WeightsError
from toco_jax.runtime.outputs import make_folder, open_atomically
from toco_jax.runtime.progress import Progress, say_aside
from toco_jax.weights.files import sha256

_DEIT = "https://dl.fbaipublicfiles.com/deit"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx"

# The files that the published runs started from. The hub has the same numbers in other files.
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

# Weights by name that the hub alone has, in the layout of timm.
FROM_HUB: Mapping[str, str] = {
    "dinov2_small": "hf:timm/vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "hf:timm/vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "hf:timm/vit_large_patch14_dinov2.lvd142m",
    "dinov2_giant": "hf:timm/vit_giant_patch14_dinov2.lvd142m",
    "dinov2_giant_reg": "hf:timm/vit_giant_patch14_reg4_dinov2.lvd142m",
    "dinov2_small_reg": "hf:timm/vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_base_reg": "hf:timm/vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_large_reg": "hf:timm/vit_large_patch14_reg4_dinov2.lvd142m",
    "dino_small": "hf:timm/vit_small_patch16_224.dino",
    "dino_base": "hf:timm/vit_base_patch16_224.dino",
    "dino_small_8": "hf:timm/vit_small_patch8_224.dino",
    "dino_base_8": "hf:timm/vit_base_patch8_224.dino",
    "mae_base": "hf:timm/vit_base_patch16_224.mae",
    "mae_large": "hf:timm/vit_large_patch16_224.mae",
    "deit3_small": "hf:timm/deit3_small_patch16_224.fb_in1k",
    "deit3_base": "hf:timm/deit3_base_patch16_224.fb_in1k",
    "deit3_large": "hf:timm/deit3_large_patch16_224.fb_in1k",
    "augreg_tiny": "hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "augreg_small": "hf:timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "augreg_base": "hf:timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "augreg_large": "hf:timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
}

# What `checks.check_heads` and `colours.stated` read beside a file.
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_CHUNK = 2**20


def from_hub(name: str) -> pathlib.Path:
    """Returns the file of `hf:owner/repository[/file]`, from the hub's cache if it is there.

    The file defaults to `model.safetensors`. The cache is the one that timm and transformers use;
    `huggingface_hub` reads its variables `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

    Raises:
        MissingWeightsError: the file cannot be downloaded.
        WeightsError: the name is not of that form, or the file has another SHA-256 than the hub
            says.
    """
    # Imported late, because it is slow to import and only these names need it.
    import huggingface_hub

    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/([\w./-]+))?", name)
    if match is None or ".." in name:
        raise WeightsError(f"{name!r} is not of the form hf:owner/repository/file.safetensors")
    repository, file = match[1], match[2] or "model.safetensors"
    path = huggingface_hub.try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        try:
            path = huggingface_hub.hf_hub_download(repository, file, library_name="toco_jax")
            _fetch_descriptions(repository, file)
        # Errors of the hub and those of the HTTP library beneath it have no base class in common.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise MissingWeightsError(
                f"cannot download {name} ({reason}). Log in with `hf auth login` if it is private; "
                f"or download {huggingface_hub.hf_hub_url(repository, file)} elsewhere and give "
                "the path of the file as init"
            ) from error
    path = pathlib.Path(path)
    # The cache links each file of a repository to one that is named by its SHA-256.
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", path.readlink().name):
        blob = os.path.normpath(path.parent / path.readlink())
        _verify(path, path.readlink().name, f"the cached file {blob}")
    return path


def _fetch_descriptions(repository: str, file: str) -> None:
    """Has the hub's cache hold what libraries write beside weights, as far as it is there."""
    import huggingface_hub

    for name in _DESCRIPTIONS:
        beside = pathlib.PurePosixPath(file).with_name(name)
        with contextlib.suppress(Exception):  # the weights do without
            huggingface_hub.hf_hub_download(repository, str(beside), library_name="toco_jax")


def cache_folder() -> pathlib.Path:
    """Returns the folder of downloads by address: `$TOCO_CACHE`, or one in the user's cache.

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


def place_of(address: str) -> pathlib.Path:
    """Returns the path of an address's file in the cache."""
    return cache_folder() / address.rsplit("/", 1)[-1]


def promised_hash(address: str) -> str | None:
    """Returns the first 8 hex digits of the SHA-256, if the name of the file carries them."""
    match = re.search(r"-([0-9a-f]{8})\.\w+$", address)
    return match[1] if match else None


def fetch(address: str, *, timeout: float = 30.0, attempts: int = 3) -> pathlib.Path:
    """Returns the cached file of an address, after it has downloaded the file if it is missing.

    Processes that ask at the same time wait for one download. The file appears under its name only
    when it is whole and its hash is right.

    Args:
        address: where the file is; its name may carry the start of its SHA-256.
        timeout: seconds without any data after which an attempt ends.
        attempts: how often a transfer is tried; each one continues where the last one broke off.

    Raises:
        MissingWeightsError: the file cannot be downloaded; the message has the address and the
            path at which a file downloaded elsewhere is found.
        WeightsError: the file has another hash than its name promises.
        OutputError: the cache cannot be written to.
    """
    place = place_of(address)
    if not place.exists():
        make_folder(place.parent, "TOCO_CACHE")
        with filelock.FileLock(place.with_name(f".{place.name}.lock")):
            if not place.exists():
                _download(address, place, timeout=timeout, attempts=attempts)
                return place
    _verify(place, promised_hash(address), f"the cached file {place}")
    return place


def _download(address: str, place: pathlib.Path, *, timeout: float, attempts: int) -> None:
    progress = Progress(place.name, unit="MB", report=say_aside)
    try:
        with open_atomically(place) as file, progress:
            _transfer(address, file, progress, timeout=timeout, attempts=attempts)
            file.flush()
            _verify(pathlib.Path(file.name), promised_hash(address), f"what {address} sent")
    except (OSError, http.client.HTTPException) as error:
        raise MissingWeightsError(
            f"cannot download {address} ({error}). Download it elsewhere and put it at {place}"
        ) from error


def _transfer(
    address: str, file: BinaryIO, progress: Progress, *, timeout: float, attempts: int
) -> None:
    """Fills `file`; each attempt continues where the last one broke off."""
    opener = urllib.request.build_opener(_SafeRedirect())
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
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    progress.update(file.tell(), total)
            if total is None or file.tell() == total:
                return
            error: Exception = OSError(f"broken off after {file.tell()} of {total} bytes")
        except urllib.error.HTTPError as refused:
            refused.close()
            raise
        except (OSError, http.client.HTTPException) as broken:
            error = broken
        if attempt == attempts:
            raise error


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects, except from HTTPS to HTTP."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"refused a redirect from HTTPS to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _verify(path: pathlib.Path, promised: str | None, what: str) -> None:
    """Raises `WeightsError` when the file's SHA-256 does not start with `promised`."""
    if promised is None:
        return
    found = sha256(path)
    if not found.startswith(promised):
        raise WeightsError(
            f"{what} has the SHA-256 {found}, but {promised} was promised: it is damaged or was "
            "replaced. Remove it and download it again"
        )
