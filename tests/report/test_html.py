"""The frame of every page: its policy, its values, and work beside that may fail."""

import base64
import hashlib
import html as standard
import re

import pytest

from toco_jax.report import html
from toco_jax.report.aside import aside
from toco_jax.runtime.errors import UserError


def test_the_policy_allows_the_programs_of_the_page_alone():
    page = html.page("a <b>", {"sections": []})
    policy = standard.unescape(re.search(r'Policy" content="([^"]*)"', page)[1])
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "<title>a &lt;b&gt;</title>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_what_is_no_number_is_null():
    assert '"x":[null,null,1.5]' in html.page("", {"x": [float("nan"), float("inf"), 1.5]})


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("damaged")])
def test_what_cannot_be_written_is_a_line(tmp_path, error, capsys):
    with aside(tmp_path / "report.html"):
        raise error
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path / 'report.html'} was not written")
    assert said.count("\n") == 1


def test_a_defect_is_a_warning_and_in_tests_an_error(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"by a defect of toco_jax: KeyError\('x'\)"):  # noqa: SIM117
        with aside(tmp_path / "report.html"):
            raise KeyError("x")
    with pytest.raises(RuntimeWarning), aside(tmp_path / "report.html"):
        raise KeyError("x")
