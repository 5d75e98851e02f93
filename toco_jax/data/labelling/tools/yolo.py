"""Reads the list of classes in the data.yaml of YOLO's tools."""

from typing import Any

import yaml

from toco_jax.data.labelling.tools.project import a_text
from toco_jax.runtime.errors import DataError, clipped

# More than any list of names is long; YAML is read slowly.
_LONGEST = 200_000


class _Loader(yaml.BaseLoader):
    """Reads all values as texts, and no references: a few lines of those can fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a value elsewhere in the file")
        return super().compose_node(parent, index)


def class_names(text: str, where: str) -> list[str]:
    """Returns the names in the order of their numbers, empty if the file has none.

    Raises:
        DataError: it is no YAML, or `names` is neither a list nor a mapping of numbers from 0 on;
            the message begins with `where`.
    """
    if len(text) > _LONGEST:
        raise DataError(
            f"{where} has more than {_LONGEST} characters; list the classes in classes.txt"
        )
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{where} cannot be read as YAML ({clipped(said)}); correct it or list the classes in "
            "classes.txt"
        ) from error
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return []
    if isinstance(names, dict):
        numbers = [key if isinstance(key, str) and key.isdecimal() else "" for key in names]
        order = sorted(zip(numbers, names.values(), strict=True), key=lambda pair: pair[0].zfill(9))
        if [number for number, _ in order] != [str(k) for k in range(len(order))]:
            raise DataError(
                f"{where}: the names are not numbered from 0 on; correct it or list the classes in "
                "classes.txt"
            )
        names = [name for _, name in order]
    if not isinstance(names, list):
        raise DataError(f"{where}: names is no list of classes; correct it")
    return [a_text(name, "a class of names", where).strip() for name in names]
