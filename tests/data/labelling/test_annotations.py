import numpy as np
import pytest

from toco_jax import data
from toco_jax.runtime.errors import DataError

OBJECT = "<object><name>{}</name></object>"


@pytest.fixture
def label_of(devkit):
    """The class names that a devkit's opening reads from one annotation's content."""
    path = devkit / "Annotations" / "2007_000001.xml"

    def read(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = data.open_source("voc", root=devkit, split="train_aug", masks=False)
        return [source.class_names[c] for c in np.flatnonzero(source.cls_labels[0])]

    read.path = path
    return read


def test_every_object_counts_once_and_no_parts(label_of):
    content = (
        "<annotation><object><name>cat</name><difficult>1</difficult><part><name>head</name></part>"
        "</object><object><name> dog\n</name></object><object><name>cat</name></object>"
        "<filename>x.jpg</filename></annotation>"
    )
    assert label_of(content) == ["cat", "dog"]
    assert label_of("<annotation/>") == []
    assert (
        label_of("<annotation><filename>x.jpg</filename><segmented>0</segmented></annotation>")
        == []
    )


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        *(("GBK", "gbk"), ("gb2312", "gb2312"), ("gb2312", "gbk"), ("GB18030", "gb18030")),
        *(
            ("shift_jis", "shift_jis"),
            ("Shift_JIS", "cp932"),
            ("big5", "big5"),
            ("euc-kr", "euc-kr"),
        ),
        *(("ISO-8859-1", "latin1"), ("windows-1252", "cp1252"), ("cp65001", "utf-8")),
        *(("utf-16", "utf-16"), ("utf-16", "utf-8"), ("UTF-8", "utf-8-sig")),
    ],
)
def test_declared_encodings_are_read(label_of, declared, encoding):
    folder = {
        "latin1": "vélo",
        "cp1252": "vélo",
        "shift_jis": "写真",
        "cp932": "①",
        "euc-kr": "사진",
    }
    text = "鎔" if (declared, encoding) == ("gb2312", "gbk") else folder.get(encoding, "中")
    content = (
        f'<?xml version="1.0" encoding="{declared}"?><annotation><folder>{text}</folder>'
        f"{OBJECT.format('cat')}</annotation>"
    )
    assert label_of(content.encode(encoding)) == ["cat"]


def test_blank_lines_before_the_declaration_do_no_harm(label_of):
    content = f'\n <?xml version="1.0"?><annotation>{OBJECT.format("cat")}</annotation>'
    assert label_of(content) == ["cat"]


INSIDE = "<filename>x.jpg</filename>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"is malformed XML \(.*\); replace"),
        ("", "is malformed XML"),
        (
            f"<annotation>{OBJECT.format('unicorn')}</annotation>",
            r"names an object 'unicorn', which is none of the 20 classes \(.*\); correct the name",
        ),
        (f"<annotation>{OBJECT.format('Cat')}</annotation>", "'Cat'.*did you mean 'cat'"),
        (f"<annotation>{OBJECT.format('tv/monitor')}</annotation>", "did you mean 'tvmonitor'"),
        ("<annotation><object/></annotation>", "has an object without a name, number 1"),
        (
            f"<annotation>{OBJECT.format('cat')}{OBJECT.format(' ')}</annotation>",
            "has an object without a name, number 2",
        ),
        (
            "<annotation><object><part><name>head</name></part></object></annotation>",
            "has an object without a name",
        ),
        # Other kinds of XML, which have no label for a reader that looks for objects alone.
        (
            '<annotations><image name="x.jpg"><box label="cat"/></image></annotations>',
            "is no annotation of VOC: its outermost element is <annotations>, not <annotation>",
        ),
        ("<html><body><p>not found</p></body></html>", "is no annotation of VOC.*<html>"),
        (f"<root><annotation>{OBJECT.format('cat')}</annotation></root>", "of VOC.*<root>"),
        (
            f'<annotation xmlns="http://x.org/voc">{OBJECT.format("cat")}</annotation>',
            r"of VOC.*<\{http://x.org/voc\}annotation>",
        ),
        ("<annotation><Object><Name>cat</Name></Object></annotation>", "holds <Object>"),
        (f"<annotation><objects>{OBJECT.format('cat')}</objects></annotation>", "holds <objects>"),
        (
            f"<annotation><list>{OBJECT.format('cat')}</list></annotation>",
            "holds <object> in <list>",
        ),
        ('<annotation><box label="cat"/></annotation>', "holds <box>.* no object"),
        (
            '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'
            f"<annotation>{OBJECT.format('cat')}<n>&y;</n></annotation>",
            "declares entities",
        ),
        (
            f"<annotation><folder>vélo</folder>{OBJECT.format('cat')}</annotation>".encode(
                "latin1"
            ),
            "is not UTF-8",
        ),
        (
            b'<?xml version="1.0" encoding="gbk"?><annotation><path>\xff\xff</path></annotation>',
            "is not gbk",
        ),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "'klingon', which is unknown"),
        ('<?xml version="1.0" encoding="punycode"?><annotation/>', "'punycode', which is unknown"),
        ('<?xml version="1.0" encoding="hex"?><annotation/>', "'hex', which is unknown"),
    ],
)
def test_broken_annotations_are_named(label_of, content, message):
    with pytest.raises(DataError, match=rf"annotation {label_of.path} .*{message}"):
        label_of(content)


def test_many_entities_take_no_time(label_of):
    declared = "".join(f'<!ENTITY e{k + 1} "{f"&e{k};" * 10}">' for k in range(12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{declared}]><annotation><n>&e12;</n></annotation>'
    for encoding, mark in (("utf-8", ""), ("utf-16", "")):
        with pytest.raises(DataError, match="declares entities"):
            label_of((mark + bomb).encode(encoding))
