import pytest

from toco_jax.data.labelling.likely_labels import looks_like_labels

COCO = '{"images": [], "annotations": [], "categories": []}'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("result.json", COCO, True),
        ("result.json", '[{"id": 1, "data": {}, "annotations": []}]', True),
        ("result.json", '[{"image": "a.jpg", "id": 1, "annotation_id": 1}]', True),
        ("result.json", '{"accuracy": 0.9, "images": 7}', False),
        ("annotations.xml", '<?xml version="1.0"?>\n<annotations><version>', True),
        ("annotations.xml", "<annotation><object>", False),
        ("metadata.csv", "file_name,label\na.jpg,cat\n", True),
        ("metadata.csv", '"file_name";"Labels"\r\n', True),
        ("metadata.csv", "file_name,camera\na.jpg,label\n", False),
        ("metadata.csv", "", False),
        ("_classes.csv", "filename, cat, dog\n", True),
        ("_classes.csv", "0, cat\n", False),
        ("project-1-at-2024.csv", "annotation_id,annotator,choice\n", True),
        ("project-1-at-2024.txt", COCO, False),
        ("metadata.jsonl", '{"file_name": "a.jpg", "objects": {}}\n', True),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": "a label"}\n', False),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_content_decides(tmp_path, name, content, expected, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert looks_like_labels(tmp_path / name) == expected


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "result.json").write_bytes(b"\xff\x00\xfe" + COCO.encode())
    assert not looks_like_labels(tmp_path / "result.json")
