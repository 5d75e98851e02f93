"""Folders of runs as training leaves them, without a training."""

import base64
import io
import json
import pathlib

import numpy as np
from PIL import Image

from toco_jax.data.mask_files import encode_mask

CLASSES = ("cat", "dog")
# A name that would run if a page took it for HTML.
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def jpeg(value: int) -> str:
    content = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(content, "JPEG")
    return base64.b64encode(content.getvalue()).decode()


def labels(value: int) -> str:
    return base64.b64encode(encode_mask(np.full((6, 8), value))).decode()


def scores_at(step: int, names=CLASSES, *, seed: int = 0) -> dict:
    """Scores of the form that an evaluation has."""
    size = len(names) + 1
    row = {
        "description": "32, single scale (CAM scales 1)",
        **{"protocol": "32", "pixel_accuracy": 80.0, "cls_f1": 90.0},
        "iou": dict(zip(("background", *names), [50.0, None] + [40.0] * size, strict=False)),
        "confusion": (5 + np.eye(size, dtype=int)).tolist(),
    }
    rows = [
        row | {"predictor": predictor, "miou": 40.0 + at + seed + step / 10}
        for at, predictor in enumerate(("seg", "cam", "aux_cam"))
    ]
    means = {f"{one['predictor']}_miou": one["miou"] for one in rows}
    about = {"step": step, "split": "val", "images": 4, "seconds": 1.0, "protocol": "32"}
    return about | means | {"cls_f1": 90.0, "rows": rows}


def evaluation_at(step: int, names=CLASSES, *, images=("one", "two"), seed: int = 0) -> dict:
    """What `training.history` keeps of an evaluation."""
    one = {
        "classes": list(names[:1]),
        "image": jpeg(90),
        "truth": labels(1),
        "CAM": jpeg(step % 256),
    }
    one |= {"pseudo label": labels(255), "segmentation": labels(step % 3)}
    drawn = [one | {"name": name} for name in images]
    return {
        **{"step": step, "seconds": 2.0 * step, "command": "toco train x data.root='a b'"},
        "scores": scores_at(step, names, seed=seed),
        "speed": [[s, 100.0 + s] for s in range(1, step + 1, 5)],
        "learning_rate": [[s, 1e-4 * s] for s in range(1, step + 1)],
        "memory": {"device": 2**30, "host": 2**31},
        "hardware": {"device": "cpu", "devices": 1},
        "versions": {"jax": "0.10.2"},
        "pictures": {
            **{"samples": drawn, "predictor": "seg"},
            "worst": [drawn[0] | {"miou": 3.0}],
            "best": [drawn[-1] | {"miou": 97.0}],
        },
    }


def make_run(
    folder: pathlib.Path, *, seed: int = 0, steps=(10, 20), names=CLASSES, is_finished=True, **keys
) -> pathlib.Path:
    """Writes a run with an evaluation at each of `steps`; `keys` change its configuration."""
    (folder / "evaluations").mkdir(parents=True)
    data = {"source": "folder", "train_split": "train", "val_split": "val"}
    config = {"seed": seed, "total_steps": 20, "backbone": "deit_tiny", "data": data}
    config |= {"temperature": 0.5, "loss_weights": {"seg": [[0, 0.0], [5, 0.1]]}}
    write(folder / "config.json", config | keys)
    write(folder / "init.json", {"init": "deit_tiny", "sha256": "abc123"})
    write(folder / "classes.json", list(names))
    lines = [{"step": s, "total": 3.0 / s + seed, "cls": 1.0 / s} for s in range(1, max(steps) + 1)]
    for step in steps:
        scores = scores_at(step, names, seed=seed)
        means = {f"val/{key}": scores[key] for key in ("seg_miou", "cam_miou", "cls_f1")}
        lines.insert([line["step"] for line in lines].index(step) + 1, {"step": step} | means)
        write(folder / "evaluations" / f"{step}.json", evaluation_at(step, names, seed=seed))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        write(folder / "results.json", scores_at(max(steps), names, seed=seed))
    return folder


def write(path: pathlib.Path, content) -> None:
    path.write_text(json.dumps(content))


def shown_in(page: pathlib.Path) -> dict:
    """The values that a page shows."""
    text = page.read_text()
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start : text.index("</script>", start)])


def blocks_in(page: pathlib.Path, kind: str) -> list[dict]:
    """The blocks of one type, those within groups too, in the order of the page."""
    found = [block for section in shown_in(page)["sections"] for block in section["blocks"]]
    found += [chart for block in found for chart in block.get("charts", ())]
    return [block for block in found if block["type"] == kind]
