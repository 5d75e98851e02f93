import json

import pytest

from toco_jax.data.labelling.tools import label_studio
from toco_jax.runtime.errors import DataError


def choices(*names, **region):
    value = {"choices": list(names), **region}
    return {"from_name": "what", "to_name": "image", "type": "choices", "value": value}


def region(kind, *names):
    value = {"x": 10, "y": 5, "width": 3, "height": 3, kind: list(names)}
    return {"from_name": "box", "to_name": "image", "type": kind, "value": value}


def annotation(*results, **fields):
    return {"id": 5, "was_cancelled": False, "result": list(results), "completed_by": 1, **fields}


def task(*annotations, ident=1, **data):
    data = data or {"image": "/data/upload/3/0a1b2c3d-a.jpg"}
    return {"id": ident, "data": data, "annotations": list(annotations), "predictions": []}


def only(*annotations, **data):
    return label_studio.of_tasks([task(*annotations, **data)], "file x").images[0]


def test_choices_and_regions_are_labels():
    results = choices("cat", "dog"), region("rectanglelabels", "emu"), region("brushlabels", "cat")
    others = (
        choices("blurred", x=1, y=2, width=3, height=4),  # says something of a region
        {"type": "rectangle", "value": {"x": 1}},
        {"type": "textarea", "value": {"text": ["yak"]}},
    )
    found = only(annotation(*results, *others))
    assert found == ("/data/upload/3/0a1b2c3d-a.jpg", ["cat", "dog", "emu"], "task 1", "", "")
    for kind in ("polygonlabels", "keypointlabels", "ellipselabels", "labels"):
        assert only(annotation(region(kind, "emu"))).labels == ["emu"]


def test_what_is_not_finished_is_not_labelled():
    cancelled = annotation(choices("cat"), was_cancelled=True)
    assert only().unlabelled == "unfinished"
    assert only(cancelled).unlabelled == "skipped"
    assert only(cancelled, annotation(choices("dog")))[1:] == (["dog"], "task 1", "", "")
    assert only(annotation())[1:] == ([], "task 1", "", "")  # submitted with nothing in it


def test_results_of_other_kinds_do_not_say_that_there_is_nothing():
    caption = {"type": "textarea", "value": {"text": ["a cat"]}}
    assert only(annotation(caption)).unlabelled == "without choices or labels of regions"
    assert only(annotation(caption), annotation(choices("cat"))).labels == ["cat"]
    found = label_studio.of_min([entry(1, kind=[{"taxonomy": [["a", "b"]]}]), entry(2)], "x").images
    assert [item.unlabelled for item in found] == ["without choices or labels of regions", ""]


def test_several_annotators_have_to_agree():
    cat, dog = annotation(choices("cat")), annotation(choices("dog"))
    assert only(cat, annotation(choices("cat"), region("labels", "cat"))).labels == ["cat"]
    assert only(cat, dog).unlabelled == "labelled differently by several annotators"
    assert only(cat, {**dog, "ground_truth": True})[1:] == (["dog"], "task 1", "", "")


def test_unread_kinds_are_told():
    result = {"type": "taxonomy", "value": {"taxonomy": [["a", "b"]]}}
    found = label_studio.of_tasks([task(annotation(result, choices("cat")))], "x")
    assert found.remarks == ["results of these kinds are not read: taxonomy"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (task(annotation(choices(5))), "file x, task 1: a name in choices is 5, not a text"),
        (task(annotation({"type": "choices", "value": []})), "value of a result is <list>, not an"),
        (task(annotation({"value": {}})), "type of a result is missing"),
        (task(7), "annotations holds 7 in place 1, not an object"),
        (task(image="/a.jpg", other="/b.jpg", ident=7), None),
        (task(one="/a.jpg", other="/b.jpg", ident=7), r"task 7 has several images \(one, other\)"),
        (task(text="a"), "task 1 has no image in its data; keep"),
        (task(image="data:image/png;base64,AAAA"), "task 1 has no image"),
    ],
)
def test_broken_tasks_are_named(broken, message):
    if message is None:
        assert label_studio.of_tasks([broken], "x").images[0].name == "/a.jpg"
        return
    with pytest.raises(DataError, match=message):
        label_studio.of_tasks([broken], "file x")


def entry(ident, image="/data/upload/7/00000000-a.jpg", annotation_id=9, **fields):
    about = {"annotator": 1, "annotation_id": annotation_id, "created_at": "2024", "lead_time": 1}
    return {"image": image, "id": ident, **fields, **about}


def test_json_min():
    box = {"x": 5, "y": 5, "width": 2, "height": 2, "rectanglelabels": ["emu"]}
    entries = [
        entry(1, choice="cat"),
        entry(2, choice={"choices": ["cat", "dog"]}, label=[box, box]),
        entry(3, annotation_id=None),
        entry(4, choice="cat"),
        entry(4, choice="dog"),
        entry(5, choice=["dog", {"choices": ["bad"], "x": 1}]),
        entry(6),
    ]
    assert label_studio.is_min(entries) and not label_studio.is_tasks(entries)
    found = label_studio.of_min(entries, "x").images
    assert [item.labels for item in found] == [["cat"], ["cat", "dog", "emu"], (), (), ["dog"], []]
    assert label_studio.is_tasks([{"data": {"image": "a.jpg"}, "predictions": []}])
    differ = "labelled differently by several annotators"
    assert [item.unlabelled for item in found] == ["", "", "unfinished", differ, "", ""]


def test_json_min_with_several_texts_is_refused():
    with pytest.raises(DataError, match="whether these fields are labels: choice, source; export"):
        label_studio.of_min([entry(1, choice="cat", source="camera 1")], "x")
    found = label_studio.of_min([entry(1, choice="cat")], "x")
    assert found.images[0].labels == ["cat"]


def test_other_lists_are_not_taken_for_it():
    for content in ([], [1], [{"file": "a.jpg", "label": "cat"}], [{"id": 1, "label": "cat"}], {}):
        text = json.loads(json.dumps(content))
        assert not label_studio.is_tasks(text) and not label_studio.is_min(text)
