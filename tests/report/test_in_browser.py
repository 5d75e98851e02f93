"""Pages in a real Chromium: no complaint, all pictures there, and what a reader can do."""

import browser as chromium
import numpy as np
import pytest
from PIL import Image
from stored_runs import HOSTILE, make_run, scores_at

from toco_jax.report import comparison_page, evaluation_page, photos_page, run_page

PHONE = 390
COUNT = "document.querySelectorAll({!r}).length"


@pytest.fixture(scope="module")
def browser():
    opened = chromium.Browser(chromium.program())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, with names that would run if they could."""
    folder = tmp_path_factory.mktemp("pages")
    names, data = (HOSTILE, "dog"), {"source": "voc", "train_split": "train", "val_split": "val"}
    runs = [make_run(folder / f"run{k}", seed=k, names=names, data=data) for k in range(2)]
    runs += [make_run(folder / "other", names=names, data=data, backbone=HOSTILE * 3)]
    scores = scores_at(20, names)
    for row in scores["rows"]:
        row |= {"worst": [{"name": HOSTILE, "miou": 1.0}], "best": []}
        row["sweep"] = {"thresholds": [0.1, 0.5, 0.9], "miou": [20.0, 50.0, 40.0]}
    return {
        "run": run_page.write(runs[0]),
        "comparison": comparison_page.write(runs, folder / "comparison.html"),
        "evaluation": evaluation_page.write(
            folder, scores, run=runs[0], config={"data": data, "backbone": HOSTILE}
        ),
        "predictions": predictions(folder / "out", names),
    }


def predictions(folder, names):
    """The page of three photos, the first of which has both classes."""
    (folder / "photos").mkdir(parents=True)
    found = photos_page.PhotoPages(folder, names, f"run at step 20: {HOSTILE}")
    for k, name in enumerate(("a#?%.png", "<img src=x onerror=alert(1)>.png", "javascript:x.png")):
        path = folder / "photos" / name
        image = np.full((40, 60, 3), 60 * k, np.uint8)
        Image.fromarray(image).save(path)
        mask = np.zeros((40, 60), np.uint8)
        mask[:20], mask[20:30, : 30 * (k == 0)] = 1, 2
        entry = {"file": str(path), "notes": [], "predicted": [names[0]]}
        found.add(k, image, mask, entry | {"overlay": f"photos/{name}", "mask": f"photos/{name}"})
    return found.write()


@pytest.mark.parametrize("kind", ["run", "comparison", "evaluation", "predictions"])
def test_a_page_is_whole_on_a_desk_and_on_a_phone(browser, pages, kind):
    grounds = []
    for width, scheme in ((1280, "light"), (PHONE, "dark")):
        browser.open(pages[kind], width=width, scheme=scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("[...document.images].every((i) => i.hidden || i.naturalWidth > 0)")
        assert browser.run(COUNT.format("section")) >= 1
        assert browser.run("window.hacked === undefined && !document.querySelector('img[src=x]')")
        grounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert browser.problems == []
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_the_policy_lets_nothing_else_run(browser, pages):
    browser.open(pages["run"])
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'hacked=1'}))"
    )
    browser.run("fetch('https://localhost/').catch(() => 0)")
    assert browser.run("window.hacked === undefined")
    refused = " ".join(browser.problems)
    assert "Executing inline script violates" in refused and "Refused to connect" in refused


def test_a_reader_of_a_run_can_choose(browser, pages):
    browser.open(pages["run"], scheme="light")
    cams = "[...document.querySelectorAll('img[alt^=\"CAM of one\"]')].map((i) => i.src)[0]"
    last = browser.run(cams)
    browser.run(
        "{ const s = document.querySelector('.pictures input'); s.value = 0;"
        " s.dispatchEvent(new Event('input')); }"
    )
    assert browser.run(cams) != last
    assert browser.run("document.querySelector('.pictures output').textContent") == "step 10"

    chart = "document.querySelector('.chart')"  # of the losses
    curves = f"[...{chart}.querySelectorAll('path.curve')].map((p) => p.getAttribute('d'))"
    both = browser.run(curves)
    browser.run(f"{chart}.querySelector('.switches button:last-child').click()")
    assert len(both) == 2 and not set(browser.run(curves)) & set(both)
    browser.run(f"{chart}.querySelector('.keys button').click()")
    assert len(browser.run(curves)) == 1

    browser.run(
        "{ const plot = document.querySelector('.plot svg'), box = plot.getBoundingClientRect();"
        " plot.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + 200})); }"
    )
    tip = browser.run("document.querySelector('.tip:not([hidden])').textContent")
    assert tip.startswith("step ") and "cls 0." in tip

    number = "document.querySelector('.classbars .number').textContent"
    order = "[...document.querySelectorAll('.classbars .name')].map((e) => e.textContent)"
    assert browser.run(number) == "50.0"
    names = browser.run(order)
    assert names[:2] == ["background", HOSTILE]
    browser.run("document.querySelector('select + .toggle').click()")
    assert browser.run(order) == ["background", "dog", HOSTILE]
    browser.settle()
    browser.run("document.querySelector('.cell').dispatchEvent(new PointerEvent('pointerenter'))")
    says = browser.run("document.querySelector('.matrix .note').textContent")
    assert says == "background: 37.5 % of its pixels are right"

    ground = "getComputedStyle(document.body).backgroundColor"
    browser.run("document.querySelector('.theme').click()")
    assert browser.run(ground) == "rgb(20, 23, 27)"
    browser.run("document.querySelector('.theme').click()")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    assert browser.problems == []


def test_a_reader_of_predictions_can_choose(browser, pages):
    browser.open(pages["predictions"], scheme="light")
    coloured = (
        "[...document.querySelectorAll('canvas')].map((c) => c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length)"
    )
    assert browser.run(coloured) == [20 * 60 + 10 * 30, 20 * 60, 20 * 60]
    browser.run("document.querySelectorAll('.toggle')[0].click()")
    assert browser.run(coloured) == [10 * 30, 0, 0]
    browser.run(
        "{ const s = document.querySelector('input[type=range]'); s.value = 25;"
        " s.dispatchEvent(new Event('input')); }"
    )
    assert browser.run("getComputedStyle(document.querySelector('canvas')).opacity") == "0.25"
    for k in range(3):
        browser.run(f"document.querySelectorAll('.stack')[{k}].click()")
        original = "document.querySelector('dialog[open] img')"
        assert browser.run(f"{original}.decode().then(() => {original}.naturalWidth)") == 60
        assert browser.run(f"{original}.src").startswith("file:///")
        browser.run("document.querySelector('dialog').click()")
    assert browser.run(COUNT.format("dialog[open]")) == 0
    assert browser.problems == []
