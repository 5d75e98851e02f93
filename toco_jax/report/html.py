"""Makes one HTML file of values, style and program, which needs no other file.

What users wrote goes into the page as JSON that no HTML parser can leave, and the program puts it
on the screen as text. The page's policy lets no other program run and nothing be loaded from a
network.
"""

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import math
from typing import Any

_PROGRAM = ("dom.js", "chart.js", "classes.js", "pictures.js", "photos.js", "page.js")
_ASSETS = importlib.resources.files("toco_jax.report") / "assets"


def page(title: str, data: dict[str, Any], *, images: str = "data:") -> str:
    """Returns a page.

    Args:
        title: name of the browser's tab.
        data: what the page shows, see `assets/page.js`. NaN and infinities become null.
        images: sources of pictures, as a content security policy writes them.
    """
    program, style = _program(), _style()
    policy = (
        f"default-src 'none'; img-src {images}; script-src {_hash(program)}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    content = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    content = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(_encodable(title))}</title>",
            f"<style>{style}</style>",
            '<main id="page"><noscript>This page needs JavaScript.</noscript></main>',
            f'<script type="application/json" id="data">{content}</script>',
            f"<script>{program}</script>",
            "</html>",
            "",
        ]
    )


def _encodable(text: str) -> str:
    """Returns a text without the odd bytes that a file name may have."""
    return text.encode(errors="replace").decode()


def _plain(value: Any) -> Any:
    """Returns JSON values in which None stands for what is no finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@functools.cache
def _program() -> str:
    parts = [(_ASSETS / name).read_text(encoding="utf-8") for name in _PROGRAM]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"


@functools.cache
def _style() -> str:
    return (_ASSETS / "page.css").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
