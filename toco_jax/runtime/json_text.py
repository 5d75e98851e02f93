"""Parses JSON that anybody may have written."""

import json
from typing import Any


def parse(text: str | bytes, **options: Any) -> Any:
    """Parses JSON like `json.loads`, with its options.

    Raises:
        ValueError: it is no JSON, or it is nested more deeply than Python can follow.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
