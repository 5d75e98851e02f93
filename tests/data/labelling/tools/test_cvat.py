from xml.etree import ElementTree

import pytest

from toco_jax.data.labelling.tools import cvat, recognise
from toco_jax.runtime.errors import DataError

META = """<meta><task><name>zoo</name><labels>
  <label><name>emu</name><color>#fafafa</color><type>any</type><attributes></attributes></label>
  <label><name>cat</name></label>
  <label><name>dog</name></label>
  <label><name>beak</name><parent>emu</parent></label>
</labels></task></meta>"""
IMAGES = """<image id="0" name="sub/a.jpg" width="5" height="4">
    <tag label="cat" source="manual"></tag>
    <box label="dog" xtl="1" ytl="2" xbr="3" ybr="4"><attribute name="old">yes</attribute></box>
    <box label="dog" xtl="1" ytl="2" xbr="3" ybr="4"/>
    <skeleton label="emu"><points label="beak" points="1,1"/></skeleton>
  </image>
  <image id="1" name="b.jpg"><mask label="emu" rle="1,2" width="3" height="1"/></image>
  <image id="2" name="c.jpg" subset="val"/>"""


def read(text):
    root = ElementTree.fromstring(f"<annotations><version>1.1</version>{text}</annotations>")
    return recognise.of_xml(root, "file x")


@pytest.mark.parametrize("place", ["task", "project", "job"])
def test_tags_and_shapes_are_labels(place):
    project = read(META.replace("task>", f"{place}>") + IMAGES)
    assert project.images == [
        ("sub/a.jpg", ["cat", "dog", "emu"], "image 0", "", ""),
        ("b.jpg", ["emu"], "image 1", "", ""),
        ("c.jpg", [], "image 2", "without tags or shapes", "val"),
    ]
    assert project.classes == ["emu", "cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<image id='3'/>", "file x, image 3 has no name; export it again"),
        ("<image id='3' name='a.jpg'><tag/></image>", "image 3 has a <tag> without a label"),
        ("<track id='0' label='cat'/>", "has the tracks of a video; export it as CVAT for images"),
        ("<meta><task><labels><label/></labels></task></meta>", "has a label without a name in"),
    ],
)
def test_broken_files_are_named(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_other_xml_is_refused():
    root = ElementTree.fromstring("<annotation><object><name>cat</name></object></annotation>")
    assert not cvat.is_images(root)
    with pytest.raises(DataError, match="outermost element is <annotation>, not <annotations>; ex"):
        recognise.of_xml(root, "file x")
