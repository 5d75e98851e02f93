"""The readers of files that anybody may have made, each with small valid files to change."""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import safetensors.numpy
from PIL import Image

from toco_jax.config import defaults
from toco_jax.data import labels, photos
from toco_jax.data.build.coco_instances import read_annotations
from toco_jax.data.classes import COCO_CLASSES, VOC_CLASSES
from toco_jax.data.labelling.annotations import read_annotation
from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.labelling.label_files import read_label_file
from toco_jax.data.labelling.lists import read_names
from toco_jax.data.labelling.sidecars import read_sidecars
from toco_jax.data.labelling.tools import yolo
from toco_jax.data.sources.coco import CATEGORY_IDS
from toco_jax.inference.inputs import video_frames
from toco_jax.run import stored, workdir
from toco_jax.runtime.errors import UserError
from toco_jax.weights import backbone_files, class_rows, files, layouts, load

SMALL = "width=8,depth=1,heads=2,patch=4"


class Reader(NamedTuple):
    """How files of one kind are read: valid ones, what they consist of, and the function."""

    name: str
    kind: str
    seeds: list[bytes]
    read: Callable[[bytes], Any]


def _weights() -> dict[str, np.ndarray]:
    sources = layouts.timm_encoder(load.backbone_from_name(SMALL), 2)
    return {
        name: np.ones(source.shape, np.float32)
        for source in sources.values()
        for name in source.names
    }


def _read_weights(path: pathlib.Path, content: bytes) -> None:
    path.write_bytes(content)
    file = files.read(path)
    class_rows.names_in(file.metadata)
    tensors = backbone_files.without_module(file.tensors)
    load.from_tensors(tensors, backbone=SMALL, num_classes=2)


def _pth(tensors: dict[str, np.ndarray]) -> bytes:
    """What `torch.save` writes, without torch."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    body, records = b"\x80\x02}q\0(", {}
    for k, (name, value) in enumerate(tensors.items()):
        size = b"M" + value.size.to_bytes(2, "little")
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(k)) + text("cpu")
        shape = b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in value.shape) + b"t"
        steps = [step // 4 for step in value.strides]
        strides = b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in steps) + b"t"
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + size + b"tQK\0"
        body += shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"
        records[f"file/data/{k}"] = value.tobytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("file/data.pkl", body + b"u.")
        archive.writestr("file/byteorder", "little")
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


def _saved(save: Callable, *arrays: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def pth(folder: pathlib.Path) -> Reader:
    """`.pth` files of `torch.save`."""
    seeds = [_pth(_weights()), _pth({"a": np.ones(3, np.float32)})]
    return Reader("pth", "zip", seeds[:1], lambda data: _read_weights(folder / "x.pth", data))


def npz(folder: pathlib.Path) -> Reader:
    """`.npz` files of weights."""
    seeds = [_saved(np.savez, **_weights(), metadata=np.array('{"backbone": "x"}'))]
    return Reader("npz", "zip", seeds, lambda data: _read_weights(folder / "x.npz", data))


def safetensors_(folder: pathlib.Path) -> Reader:
    """`.safetensors` files."""
    seeds = [safetensors.numpy.save(_weights(), {"classes": '["cat", "dog"]'})]
    path = folder / "x.safetensors"
    return Reader("safetensors", "safetensors", seeds, lambda data: _read_weights(path, data))


def _label_reader(name: str, kind: str, ending: str, seeds: list[bytes]) -> Callable:
    def make(folder: pathlib.Path) -> Reader:
        path = folder / f"labels{ending}"

        def read(content: bytes) -> None:
            path.write_bytes(content)
            for known in ((), ("cat", "dog")):
                try:
                    file = read_label_file(path, known=known, names=("a", "2007_000001"))
                    for image in list(file.entries)[:20]:
                        as_vector(file.entry(image), ("cat", "dog"), f"label file {path}")
                except UserError as error:
                    if known:
                        raise
                    assert str(path) in str(error)

        return Reader(name, kind, seeds, read)

    return make


def _csv_seeds() -> list[bytes]:
    return [
        b"file,label\na.jpg,cat\nb.jpg,cat;dog\n",
        b'"a.jpg";"cat"\r\n"b.jpg";"dog"\r\n',
        b"file,cat,dog\na.jpg,1,0\nb.jpg,0,1\n",
        b"id\tclass\n1\t0\n2\t1\n",
        b"a.jpg,1,0\nb.jpg,0,1\n",
        b"file,tag\na.jpg,cat\na.jpg,dog\nb.jpg,dog\nb.jpg,cat\n",
        b'id,annotation_id,annotator,image,choice\n1,5,1,a.jpg,"{""choices"":[""cat"",""dog""]}"\n',
    ]


def _json_seeds() -> list[bytes]:
    values = [
        {"a.jpg": ["cat"], "b.jpg": ["cat", "dog"]},
        {"a": [1, 0], "b": [0, 1]},
        [{"file": "a.jpg", "label": "cat"}, {"file": "b.jpg", "label": "dog"}],
        {"a": "cat", "b": "dog, cat"},
    ]
    return [json.dumps(value).encode() for value in values]


def _tool_seeds() -> list[bytes]:
    """Exports of annotation tools in JSON."""
    result = {"type": "choices", "value": {"choices": ["cat", "dog"]}}
    box = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["cat"]}}
    image = "/data/upload/1/0a1b2c3d-a.jpg"
    annotation = {"was_cancelled": False, "result": [result, box]}
    flat = {"image": image, "choice": {"choices": ["cat", "dog"]}, "annotation_id": 1}
    values = [
        [{"id": 1, "data": {"image": image}, "annotations": [annotation]}],
        [{"id": 1, **flat}, {"id": 2, **flat, "image": "s3://b/2007_000001.jpg?x"}],
        {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
            "categories": [{"id": 1, "name": "cat"}],
        },
        {"imagePath": "a.jpg", "flags": {"dog": True}, "shapes": [{"label": "cat", "points": []}]},
        {"classes": ["cat", "dog"], "labels": {"a": 0, "2007_000001": [{"label": "cat"}]}},
    ]
    return [json.dumps(value).encode() for value in values]


def _jsonl_seeds() -> list[bytes]:
    boxes = {"bbox": [[0, 0, 1, 1]], "categories": ["dog"]}
    values = [{"file_name": "a.jpg", "label": ["cat"]}, {"file_name": "b.jpg", "objects": boxes}]
    return ["\n".join(map(json.dumps, values)).encode()]


def _cvat_seeds() -> list[bytes]:
    image = '<image id="0" name="a.jpg"><tag label="cat"/><box label="dog" xtl="1"/></image>'
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    text = f"<annotations><version>1.1</version>{labels}{image}</annotations>"
    return [f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode(), text.encode("utf-16")]


def _npy_seeds() -> list[bytes]:
    content = {"2007_000001": np.float32([1, 0]), "a": ["cat"], "b": 1}
    return [_saved(np.save, np.array(content, object))]


def _npz_seeds() -> list[bytes]:
    names = np.array(["a", "b"])
    return [_saved(np.savez, names=names, labels=np.eye(2)), _saved(np.savez, a=np.eye(2)[0])]


def xml(folder: pathlib.Path) -> Reader:
    """Annotations of VOC."""
    item = "<object><name>cat</name><difficult>0</difficult></object>"
    text = f"<annotation><folder>VOC</folder><size><width>3</width></size>{item}</annotation>"
    seeds = [
        text.encode(),
        f'<?xml version="1.0" encoding="gb2312"?>\n{text}'.encode(),
        text.encode("utf-16"),
    ]

    def read(content: bytes) -> None:
        (folder / "a.xml").write_bytes(content)
        read_annotation(folder / "a.xml", VOC_CLASSES)

    return Reader("xml", "text", seeds, read)


def lists(folder: pathlib.Path) -> Reader:
    """Lists of images."""

    def read(content: bytes) -> None:
        (folder / "train.txt").write_bytes(content)
        for name in read_names(folder / "train.txt"):
            path = (folder / f"{name}.jpg").resolve()
            assert path.is_relative_to(folder.resolve()), name

    return Reader("list", "text", [b"a\nb/c.jpg\n./d.png\n", "e\r\nä\r\n".encode("utf-16")], read)


def sidecars(folder: pathlib.Path) -> Reader:
    """Text files beside images."""

    def read(content: bytes) -> None:
        (folder / "a.txt").write_bytes(content)
        for known in ((), ("cat", "dog")):
            entries, _ = read_sidecars(folder, {"a": folder / "a.txt"}, known=known, separator="")
            if isinstance(entries["a"], UserError):
                raise entries["a"]

    seeds = [b"cat\ndog\n", b"cat; dog", b"dog"]
    return Reader("sidecar", "text", seeds, read)


def yolo_yaml(_folder: pathlib.Path) -> Reader:
    """Lists of classes in YAML."""
    seeds = [
        b"nc: 2\nnames: [cat, 'dog']\n",
        b"names:\n  0: cat\n  1: dog # x\n",
        b"names:\n- cat\n",
    ]

    def read(content: bytes) -> None:
        yolo.class_names(content.decode("latin1"), "list data.yaml")

    return Reader("yaml", "text", seeds, read)


def instances(folder: pathlib.Path) -> Reader:
    """COCO's annotation files."""
    ids = zip(CATEGORY_IDS, COCO_CLASSES, strict=True)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": []}],
        "categories": [{"id": number, "name": word} for number, word in ids],
    }

    def read(data: bytes) -> None:
        (folder / "instances.json").write_bytes(data)
        read_annotations(folder / "instances.json")

    return Reader("instances", "text", [json.dumps(content).encode()], read)


def pictures(folder: pathlib.Path) -> Reader:
    """Pictures, as images and as masks."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    seeds = []
    for ending in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm", "tga"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ending, exif=exif)
        seeds.append(file.getvalue())
    for mode in ("P", "L", "1", "RGBA", "I;16"):
        file = io.BytesIO()
        array = pixels[..., 0].astype(np.uint16) if mode == "I;16" else pixels
        picture = Image.fromarray(array)
        (picture if mode == "I;16" else picture.convert(mode)).save(file, "png")
        seeds.append(file.getvalue())
    seeds.append(cv2.imencode(".tif", pixels.astype(np.float32) / 255)[1].tobytes())
    seeds.append(cv2.imencode(".png", pixels.astype(np.uint16))[1].tobytes())

    def read(content: bytes) -> None:
        path = folder / "x.png"
        path.write_bytes(content)
        try:
            labels.read_mask(path, 20)
        except UserError as error:
            assert str(path) in str(error)
        photos.read_photo(path)

    return Reader("picture", "picture", seeds, read)


def videos(folder: pathlib.Path) -> Reader:
    """Videos."""
    seeds = []
    for ending, code in (("avi", "MJPG"), ("mp4", "mp4v")):
        path = folder / f"seed.{ending}"
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (32, 16))
        for k in range(4):
            video.write(np.full((16, 32, 3), 60 * k, np.uint8))
        video.release()
        seeds.append(path.read_bytes())

    def read(content: bytes) -> None:
        path = folder / ("x.avi" if content[:4] == b"RIFF" else "x.mp4")
        path.write_bytes(content)
        for _ in video_frames(path, every=1):
            pass

    return Reader("video", "video", seeds, read)


def runs(folder: pathlib.Path) -> Reader:
    """`config.json` and `classes.json` of a run's folder, in one file with a zero byte between."""
    config = json.dumps(defaults().to_dict() | {"num_classes": 2}, indent=1).encode()
    small = json.dumps({"backbone": "deit_tiny", "num_classes": 2}).encode()
    seeds = [part + b"\0" + b'["cat", "dog"]' for part in (config, small)]
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()

    def read(content: bytes) -> None:
        first, _, second = content.rpartition(b"\0")
        (folder / "run" / "config.json").write_bytes(first)
        (folder / "run" / "classes.json").write_bytes(second)
        found = workdir.load_config(folder / "run")
        workdir.class_names(folder / "run", found)
        load.backbone_from_name(found.backbone)

    return Reader("run", "text", seeds, read)


# Run by a process of its own: a fork inherits none of the threads that libraries start for it.
_SAVE = """
import pathlib, sys
import numpy as np
import orbax.checkpoint as ocp
folder = pathlib.Path(sys.argv[1])
tree = {"params": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.int32)}}
ocp.PyTreeCheckpointer().save(folder / "state", tree)
(folder / "meta").mkdir()
(folder / "meta" / "metadata").write_text('{"seconds": 1.5}')
"""


def checkpoints(folder: pathlib.Path) -> Reader:
    """A file of a checkpoint, after its path and a zero byte, among others with right checksums."""
    whole, broken = folder / "whole", folder / "broken"
    subprocess.run([sys.executable, "-c", _SAVE, str(whole)], check=True, capture_output=True)
    files = [path for path in sorted(whole.rglob("*")) if path.is_file()]
    names = [path.relative_to(whole).as_posix() for path in files]
    seeds = [
        name.encode() + b"\0" + path.read_bytes() for name, path in zip(names, files, strict=True)
    ]

    def read(content: bytes) -> None:
        name, _, content = content.partition(b"\0")
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(whole, broken)
        # A change of the path changes the first file.
        (broken / (name.decode() if name.decode("latin-1") in names else names[0])).write_bytes(
            content
        )
        stored.write_checksums(broken)
        stored.read(broken)

    return Reader("checkpoint", "text", seeds, read)


READERS: dict[str, Callable[[pathlib.Path], Reader]] = {
    "pth": pth,
    "npz": npz,
    "safetensors": safetensors_,
    "labels_npy": _label_reader("labels_npy", "text", ".npy", _npy_seeds()),
    "labels_npz": _label_reader("labels_npz", "zip", ".npz", _npz_seeds()),
    "labels_json": _label_reader("labels_json", "text", ".json", _json_seeds()),
    "labels_tools": _label_reader("labels_tools", "text", ".json", _tool_seeds()),
    "labels_jsonl": _label_reader("labels_jsonl", "text", ".jsonl", _jsonl_seeds()),
    "labels_cvat": _label_reader("labels_cvat", "text", ".xml", _cvat_seeds()),
    "labels_csv": _label_reader("labels_csv", "text", ".csv", _csv_seeds()),
    "sidecar": sidecars,
    "xml": xml,
    "yaml": yolo_yaml,
    "list": lists,
    "instances": instances,
    "picture": pictures,
    "video": videos,
    "run": runs,
    "checkpoint": checkpoints,
}
