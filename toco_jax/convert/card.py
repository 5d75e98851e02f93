"""The card of a shared network: what it does, how well, how to use it, and where it came from."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from toco_jax.evaluation import scoring
from toco_jax.run import records

FILE = "README.md"
# Licences of the initial weights by their names, as their owners state them.
_LICENCES = {
    **dict.fromkeys(("deit_tiny", "deit_small", "deit_base"), "Apache-2.0 (DeiT, Meta AI)"),
    **dict.fromkeys(("vit_base", "vit_large"), "Apache-2.0 (ViT, Google Research)"),
    "random": "none: they were drawn at random",
    "shapes": "Apache-2.0 (toco_jax)",
}


def text(
    run: pathlib.Path,
    config: ConfigDict,
    names: Sequence[str],
    repository: str,
    licence: str | None,
) -> str:
    """Returns the card of a run's network as Markdown.

    Args:
        run: the run's folder, whose scores the card gives.
        config: its configuration.
        names: its classes without the background.
        repository: `owner/name` on the hub.
        licence: that of the network, as the hub spells it, if its owner states one.
    """
    front = ["library_name: toco_jax", "pipeline_tag: image-segmentation"]
    front += ["tags: [weakly-supervised, semantic-segmentation, jax, toco]"]
    front += [f"license: {json.dumps(licence)}"] if licence else []
    stated = licence or "Its owner has stated none for this network."
    initial = _LICENCES.get(config.init, "not known here: see where they come from")
    return "\n".join(
        [
            *("---", *front, "---", f"# {_plain(repository)}", ""),
            "Segments photos into the classes below. Trained by "
            "[ToCo](https://arxiv.org/abs/2303.01267) with `toco_jax` on labels of whole images, "
            "without a mask.",
            "",
            *("## Use", "", "```", f"toco predict hf:{repository} photos/ --out out", "```", ""),
            *("```python", "from toco_jax import Segmenter", ""),
            f'segmenter = Segmenter("hf:{repository}")',
            *('mask = segmenter("photo.jpg")', "```", ""),
            *("## Classes", "", "0 background, " + ", ".join(_numbered(names)), ""),
            *("## Scores", "", *_scores(run), ""),
            *("## Training", "", *_training(config), ""),
            *("## Licence", "", stated, "", f"Licence of the initial weights: {initial}.", ""),
        ]
    )


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"{number} {_plain(name)}" for number, name in enumerate(names, 1)]


def _plain(name: str) -> str:
    """Returns a name such that Markdown and HTML show it as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|&" else c for c in name)


def _scores(run: pathlib.Path) -> list[str]:
    """Returns the lines of the table of all scores that the run's folder holds."""
    remedy = "remove it, or evaluate the run again"
    rows: list[dict[str, Any]] = []
    evaluation = run / records.EVALUATION_FILE
    found = records.read_json(evaluation, remedy=remedy) if evaluation.exists() else None
    for scores in (found, records.results(run)):
        known = {row["description"] for row in rows}
        rows += [row for row in (scores or {}).get("rows", ()) if row["description"] not in known]
    if not rows:
        return ["The run was not scored."]
    lines = ["| made from | protocol | mIoU, % |", "|---|---|---|"]
    lines += [
        f"| {row['predictor']} | {_plain(row['description'])} | {scoring.shown(row['miou'])} |"
        for row in rows
    ]
    return [*lines, "", "CAMs are scored with the labels of the image given."]


def _training(config: ConfigDict) -> list[str]:
    keys = ("backbone", "crop_size", "batch_size", "total_steps", "learning_rate", "seed")
    values = ", ".join(f"`{key}={config[key]}`" for key in keys)
    return [f"Data: `{config.data.source}`. {values}; all keys are in `config.json`."]
