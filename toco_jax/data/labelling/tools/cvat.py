"""Reads CVAT's export "CVAT for images 1.1"."""

from xml.etree import ElementTree

from toco_jax.data.labelling.tools.project import Project, Tagged
from toco_jax.runtime.errors import DataError, clipped

TOOL = "CVAT for images"

_LABELLED = frozenset(
    ("tag", "box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton")
)


def is_images(root: ElementTree.Element) -> bool:
    """Whether an XML document is an export of CVAT."""
    return root.tag == "annotations"


def of_images(root: ElementTree.Element, where: str) -> Project:
    """Reads the export; `where` begins the message of a `DataError`.

    Tags of an image are its labels, and so are the labels of its shapes. An image without either
    counts as not labelled: the file does not tell whether somebody looked at it.
    """
    if root.find("track") is not None:
        raise DataError(f"{where} has the tracks of a video; export it as CVAT for images 1.1")
    # These are a job's, a task's or a project's; the parts of a skeleton are no classes.
    declared = [
        _text(label.findtext("name"), "a label without a name in <meta>", where)
        for labels in root.findall("meta/*/labels")
        for label in labels.findall("label")
        if not (label.findtext("parent") or "").strip()
    ]
    images = []
    for number, image in enumerate(root.findall("image"), start=1):
        place = f"image {clipped(image.get('id', number))}"
        inside = f"{where}, {place}"
        labels = [
            _text(item.get("label"), f"a <{item.tag}> without a label", inside)
            for item in image
            if item.tag in _LABELLED
        ]
        name = _text(image.get("name"), "no name", inside)
        why = "" if labels else "without tags or shapes"
        subset = (image.get("subset") or "").strip()
        images.append(Tagged(name, list(dict.fromkeys(labels)), place, why, subset))
    return Project(TOOL, "image", images, list(dict.fromkeys(declared)))


def _text(value: str | None, otherwise: str, where: str) -> str:
    if not (value or "").strip():
        raise DataError(f"{where} has {otherwise}; export it again")
    return str(value).strip()
