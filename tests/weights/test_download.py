"""Downloads from a server on this machine: whole and right, or an error that says what to do."""

import hashlib
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants
from reference_weights import reference_state_dict
from weight_formats import timm_state

from toco_jax.config import ConfigError, defaults
from toco_jax.models.backbones import BACKBONES
from toco_jax.runtime.errors import MissingWeightsError, WeightsError
from toco_jax.runtime.outputs import OutputError
from toco_jax.training import start
from toco_jax.weights import download, load, published

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"weights-{DIGEST[:8]}.pth"


class Server:
    """Serves CONTENT as `behaviour` says and keeps the requests."""

    def __init__(self):
        self.behaviour = "whole"
        self.requests = []
        self.files = {}
        self.tokens = []
        self.released = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append((self.path, self.headers.get("Range")))
                server.answer(self)

            def do_HEAD(self):
                server.tokens.append(self.headers.get("Authorization"))
                server.answer_for_hub(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def answer(self, request):
        behaviour = self.behaviour
        if behaviour == "404":
            return request.send_error(404)
        if request.path in self.files:
            content = self.files[request.path]
            request.send_response(200)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            return request.wfile.write(content)
        asked = request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if behaviour == "cut_no_ranges":
            start = 0
        body = CONTENT[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        is_first = len(self.requests) == 1
        if behaviour == "cut_always" or (behaviour.startswith("cut") and is_first):
            request.wfile.write(body[: len(body) // 2])
        elif behaviour == "stalled":
            request.wfile.write(body[:1000])
            self.released.wait(20)
        elif behaviour == "slow":
            for part in range(0, len(body), 500_000):
                request.wfile.write(body[part : part + 500_000])
                request.wfile.flush()
                time.sleep(0.1)
        else:
            request.wfile.write(body)

    def answer_for_hub(self, request):
        """What the hub says of a file before it is asked for it."""
        content = self.files.get(request.path)
        request.send_response(404 if content is None else 200)
        if content is not None:
            request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            request.send_header("X-Repo-Commit", "0" * 40)
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()

    def close(self):
        if self.released.is_set():
            return
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOCO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    server = Server()
    yield server
    server.close()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The server in place of the hub, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return server


def visible(cache):
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("behaviour", "requests"), [("whole", 1), ("slow", 1), ("cut", 2), ("cut_no_ranges", 2)]
)
def test_the_file_arrives_whole(server, cache, behaviour, requests):
    server.behaviour = behaviour
    address = f"{server.address}/{NAME}"
    # Slower altogether than the time-out, which counts from the last data on.
    place = download.fetch(address, timeout=0.5)
    assert place == cache / NAME
    assert place.read_bytes() == CONTENT
    assert len(server.requests) == requests
    if behaviour == "cut":
        assert server.requests[1][1] == f"bytes={len(CONTENT) // 2}-"
    assert download.fetch(address) == place
    assert len(server.requests) == requests
    assert visible(cache) == [NAME]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("404", "404"), ("cut_always", "broken off after|IncompleteRead"), ("stalled", "timed out")],
)
def test_failures_say_where_to_put_the_file(server, cache, behaviour, message):
    server.behaviour = behaviour
    address = f"{server.address}/{NAME}"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        download.fetch(address, timeout=0.3, attempts=2)
    assert address in str(caught.value)
    assert str(cache / NAME) in str(caught.value)
    assert len(server.requests) == (1 if behaviour == "404" else 2)
    assert visible(cache) == []


def test_offline(cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    address = f"http://127.0.0.1:{port}/{NAME}"
    with pytest.raises(FileNotFoundError, match=r"refused.*put it at") as caught:
        download.fetch(address)
    assert address in str(caught.value)
    assert str(cache / NAME) in str(caught.value)
    # Put there by hand, it serves.
    (cache / NAME).write_bytes(CONTENT)
    assert download.fetch(address).read_bytes() == CONTENT


def test_wrong_hash(server, cache):
    with pytest.raises(ValueError, match=f"SHA-256 {DIGEST}, but 00000000 was promised"):
        download.fetch(f"{server.address}/weights-00000000.pth")
    assert visible(cache) == []
    (cache / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"cached file .* Remove it"):
        download.fetch(f"{server.address}/{NAME}")


def test_never_from_https_to_http():
    request = download.urllib.request.Request("https://example.org/a")
    with pytest.raises(OSError, match="refused a redirect"):
        download._SafeRedirect().redirect_request(
            request, None, 302, "", {}, "http://example.org/a"
        )


def test_two_processes_download_once(server, cache):
    server.behaviour = "slow"
    address = f"{server.address}/{NAME}"
    code = f"from toco_jax.weights import download; print(download.fetch({address!r}))"
    environment = os.environ | {"TOCO_CACHE": str(cache)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert pathlib.Path(out.strip()).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_name_is_downloaded_and_read(server, cache, monkeypatch):
    server.behaviour = "404"
    address = f"{server.address}/{NAME}"
    monkeypatch.setattr(download, "ADDRESSES", {"deit_tiny": address})
    with pytest.raises(FileNotFoundError, match="cannot download"):
        load.load("deit_tiny", backbone="deit_tiny", num_classes=20)
    server.behaviour = "whole"
    assert load.resolve("deit_tiny") == cache / NAME


def test_a_legacy_file_gives_way_to_the_hub(hub, monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    state = reference_state_dict(8, 2, patch=4)
    timm = {name: torch.from_numpy(value) for name, value in timm_state(state).items()}
    torch.save(timm, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    content = (tmp_path / "legacy").read_bytes()
    name = f"/published-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    hub.files = {name: content}
    monkeypatch.setattr(download, "ADDRESSES", {"deit_tiny": hub.address + name})
    sizes = {"backbone": "width=8,depth=2,heads=2,patch=4", "num_classes": 20}
    with pytest.raises(
        FileNotFoundError, match=r'Re-save it.*python -c "import torch.*path of the'
    ):
        load.load("deit_tiny", **sizes)
    hub_path = "/timm/deit_tiny_patch16_224.fb_in1k/resolve/main/model.safetensors"
    hub.files[hub_path] = safetensors.numpy.save(timm_state(state))
    out = load.load("deit_tiny", **sizes)
    expected, _ = published.params_from_reference(state, **sizes)
    np.testing.assert_array_equal(
        out["params"]["encoder"]["pos_embed"], expected["encoder"]["pos_embed"]
    )
    assert any("hf:timm/deit_tiny" in note for note in out["notes"])


def test_published_addresses():
    for name, address in download.ADDRESSES.items():
        assert address.startswith("https://")
        assert download.promised_hash(address) is not None, name
        assert download.place_of(address).suffix == ".pth"
    assert set(download.ADDRESSES) == {
        *("deit_tiny", "deit_small", "deit_base", "vit_base", "vit_large")
    }


def test_every_backbone_has_weights_by_its_name_unless_their_licence_forbids():
    named = {name for name in BACKBONES if not name.startswith("dinov3_")}
    assert download.ADDRESSES.keys() | download.FROM_HUB.keys() == named < BACKBONES.keys()


def test_a_name_of_the_hub_is_downloaded(hub):
    path = "/timm/vit_small_patch14_reg4_dinov2.lvd142m/resolve/main/model.safetensors"
    hub.files = {path: CONTENT}
    assert load.resolve("dinov2_small_reg").read_bytes() == CONTENT


def test_a_name_and_another_backbone_are_refused_before_the_download(hub):
    message = "set init=dinov2_small or backbone=deit_base"
    with pytest.raises(WeightsError, match=message):
        load.load("deit_base", backbone="dinov2_small", num_classes=3)
    config = defaults("deit_base")
    config.backbone = "dinov2_small"
    with pytest.raises(ConfigError, match=message):
        start.load_start(config)
    assert not hub.requests


def test_a_file_of_the_hub_is_downloaded_once_and_verified(hub):
    hub.files = {"/owner/name/resolve/main/model.safetensors": CONTENT}
    path = download.from_hub("hf:owner/name")
    assert path.read_bytes() == CONTENT
    assert download.from_hub("hf:owner/name/model.safetensors") == path
    # Two more were asked for, which libraries write beside weights and this repository lacks.
    assert len(hub.requests) == 1 and len(hub.tokens) == 3
    path.resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=rf"blobs/{DIGEST} has the SHA-256 .* Remove it"):
        download.from_hub("hf:owner/name")
    path.resolve().unlink()
    assert download.from_hub("hf:owner/name").read_bytes() == CONTENT


def test_what_libraries_wrote_beside_weights_comes_along(hub):
    place = "/owner/name/resolve/main/sub"
    hub.files = {f"{place}/x.safetensors": CONTENT, f"{place}/config.json": b"{}"}
    path = download.from_hub("hf:owner/name/sub/x.safetensors")
    assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", "x.safetensors"]


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(
        MissingWeightsError, match=r"cannot download hf:a/b/c\.bin \(.*hf auth"
    ) as e:
        download.from_hub("hf:a/b/c.bin")
    assert f"{hub.address}/a/b/resolve/main/c.bin" in str(e.value)
    assert len(str(e.value)) < 600
    for name in ("hf:", "hf:timm", "hf:a/../../b", "hf:a/b/../../c", "timm/x"):
        with pytest.raises(WeightsError, match="not of the form"):
            download.from_hub(name)


def test_the_variables_of_the_hub_hold(server, tmp_path):
    """A mirror, a token and a cache by environment, and then offline."""
    server.files = {"/owner/name/resolve/main/sub/x.safetensors": CONTENT}
    code = "from toco_jax.weights import download; print(download.from_hub('hf:owner/name/{}'))"
    environment = os.environ | {
        "HF_ENDPOINT": server.address,
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path / "home"),
    }

    def run(file, **more):
        command = [sys.executable, "-c", code.format(file)]
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, check=False
        )

    path = pathlib.Path(run("sub/x.safetensors").stdout.strip())
    assert path.is_relative_to(tmp_path / "home") and path.read_bytes() == CONTENT
    assert set(server.tokens) == {"Bearer hf_secret"}
    server.close()
    assert run("sub/x.safetensors", HF_HUB_OFFLINE="1").stdout.strip() == str(path)
    assert "cannot download hf:owner/name/y" in run("y", HF_HUB_OFFLINE="1").stderr


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TOCO_CACHE", str(tmp_path))
    assert download.cache_folder() == tmp_path
    monkeypatch.delenv("TOCO_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg" / "toco_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download.cache_folder() == pathlib.Path.home() / ".cache" / "toco_jax"


def test_a_cache_that_cannot_be(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOCO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"folder .*/file/cache .* give another TOCO_CACHE"):
        load.load("deit_tiny", backbone="deit_tiny", num_classes=20)
    for name in ("TOCO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(MissingWeightsError, match=r"no home directory .*: set TOCO_CACHE"):
        load.load("deit_tiny", backbone="deit_tiny", num_classes=20)
