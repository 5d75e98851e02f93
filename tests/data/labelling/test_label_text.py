"""Labels as people write them, read through a folder of images."""

import json
import re

import cv2
import numpy as np
import pytest

from toco_jax import data
from toco_jax.runtime.errors import DataError

NAMES = ("i0", "i1", "i2", "i3")


@pytest.fixture
def photos(tmp_path):
    """Four images, all of them in the list train.txt."""
    for k, name in enumerate(NAMES):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.full((4, 5, 3), 40 * k, np.uint8))
    (tmp_path / "train.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return tmp_path


def opened(root, **options):
    return data.open_source("folder", root=root, split="train", masks=False, **options)


def said(source):
    """The remarks of a source as one text."""
    return "\n".join(map(str, source.remarks))


def words(source):
    """The labels of the four images, each a string of class names."""
    return [
        " ".join(source.class_names[c] for c in np.flatnonzero(row)) for row in source.cls_labels
    ]


def write(root, text, name="labels.csv", encoding="utf-8"):
    (root / name).write_bytes(text.encode(encoding))


def column(*cells, heading="file,label", separator=","):
    rows = [f"{name}.jpg{separator}{cell}" for name, cell in zip(NAMES, cells, strict=True)]
    return "\n".join([heading.replace(",", separator), *rows, ""])


PLAIN = ["cat", "dog", "cat", "dog"]


@pytest.mark.parametrize(
    "heading",
    [
        *(
            "image_name,tags",
            "image_id,label",
            "ImageID,Class",
            "file_name,category",
            "img,species",
        ),
        *("Image Index,Finding Labels", "fname,labels", "path,target", "id,breed"),
    ],
)
def test_usual_headings_are_no_class(photos, heading):
    write(photos, column(*PLAIN, heading=heading))
    source = opened(photos)
    assert source.class_names == ("cat", "dog") and words(source) == PLAIN
    (photos / "train.txt").unlink()  # nor is the heading an image
    assert set(opened(photos, val_fraction=0.25).names) < set(NAMES)


@pytest.mark.parametrize("ending", [".jpg", ""])
def test_an_unusual_heading_is_told_by_the_names_of_images(photos, ending):
    write(photos, column(*PLAIN, heading="foto,was").replace(".jpg", ending))
    assert opened(photos).class_names == ("cat", "dog")


def test_a_column_of_masks_is_no_label(photos):
    masks = [f"masks/{name}.png" for name in NAMES]
    write(photos, column(*masks, heading="image,mask"))
    with pytest.raises(
        DataError, match=r"labels\.csv has only names of .*; add a column of labels"
    ):
        opened(photos)
    both = [f"{mask},{label}" for mask, label in zip(masks, PLAIN, strict=True)]
    write(photos, column(*both, heading="image,mask,what"))
    assert words(opened(photos)) == PLAIN


def test_images_called_by_numbers(tmp_path):
    for k in range(4):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((4, 5, 3), 40 * k, np.uint8))
    write(tmp_path, "0\n1\n2\n3\n", "train.txt")
    for text in (
        "0,cat\n1,dog\n2,cat\n3,dog\n",
        ",id,label\n7,0,cat\n8,1,dog\n9,2,cat\n10,3,dog\n",
        ",id,label\n0,3,dog\n1,2,cat\n2,1,dog\n3,0,cat\n",
        ",file,label\n0,3.png,dog\n1,2.png,cat\n2,1.png,dog\n3,0.png,cat\n",
        "id,cat,dog\n3,0,1\n2,1,0\n1,0,1\n0,1,0\n",
    ):
        write(tmp_path, text)
        assert words(opened(tmp_path)) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "\n\n" + column(*PLAIN),
        "# made by hand\n" + column(*PLAIN),
        column(*PLAIN).replace("\n", ",\n"),
        column(*PLAIN).replace("\n", "\r\n"),
        column(*PLAIN, separator=";"),
        "sep=;\r\n" + column(*PLAIN, separator=";"),
        column(*PLAIN, separator="\t"),
        column(*PLAIN, separator=", "),
        column(*PLAIN).replace("i0.jpg,cat", '"i0.jpg","cat"'),
        column(*(f"{cell},train,7" for cell in PLAIN), heading="file,label,split,width"),
        ",file,label\n0,i0.jpg,cat\n1,i1.jpg,dog\n2,i2.jpg,cat\n3,i3.jpg,dog\n",
        "label,file\ncat,i0.jpg\ndog,i1.jpg\ncat,i2.jpg\ndog,i3.jpg\n",
        column(*PLAIN).replace("i0", ".\\i0"),
    ],
)
def test_tables_of_every_make(photos, text):
    write(photos, text)
    assert words(opened(photos)) == PLAIN


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_encodings_that_say_what_they_are(photos, encoding, name):
    text = column("café", "dog", "dog", "café")
    if name == "labels.json":
        text = json.dumps({"i0.jpg": "café", "i1": "dog", "i2": "dog", "i3": "café"})
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    write(photos, mark + text, name, encoding)
    write(photos, mark + "i0\r\ni1\r\ni2\r\ni3\r\n", "train.txt", encoding)
    assert words(opened(photos)) == ["café", "dog", "dog", "café"]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("cp1252", "cannot be read as text: it is not UTF-8 .* save it"),
        ("utf-16-le", "cannot be read as text: .* save it"),
    ],
)
def test_other_encodings_are_refused(photos, encoding, message):
    write(photos, column("café", "dog", "dog", "café"), encoding=encoding)
    with pytest.raises(DataError, match=rf"label file {photos}/labels\.csv {message}"):
        opened(photos)


CELLS = {
    "semicolons": ["cat;dog", "cat", "dog", "cat ; dog"],
    "bars": ["cat|dog", "cat", "dog", "cat|dog"],
    "commas": ['"cat,dog"', "cat", "dog", '"cat, dog"'],
    "line ends": ['"cat\ndog"', "cat", "dog", '"cat\ndog"'],
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_several_labels_in_a_cell(photos, cells):
    write(photos, column(*cells))
    assert words(opened(photos)) == ["cat dog", "cat", "dog", "cat dog"]
    strings = {name: cell.strip('"') for name, cell in zip(NAMES, cells, strict=True)}
    (photos / "labels.csv").unlink()
    write(photos, json.dumps(strings), "labels.json")
    assert words(opened(photos)) == ["cat dog", "cat", "dog", "cat dog"]
    (photos / "labels.json").unlink()
    for name, text in strings.items():
        write(photos, text, f"{name}.txt")
    assert words(opened(photos)) == ["cat dog", "cat", "dog", "cat dog"]


def test_excels_cells_with_commas(photos):
    write(photos, column("cat,dog", "cat", "dog", "cat", separator=";"))
    assert words(opened(photos)) == ["cat dog", "cat", "dog", "cat"]


TAGS = ["haze primary", "clear primary water", "clear primary", "haze primary"]
SYNONYMS = ['"tench, Tinca"', '"goldfish, Carassius"', '"tench, Tinca"', "emu"]


@pytest.mark.parametrize(
    ("cells", "shown", "separators"),
    [(TAGS, "clear primary", (" ", ";")), (SYNONYMS, "goldfish, Carassius", (",", ";"))],
)
def test_what_may_be_one_class_or_several_is_asked(photos, cells, shown, separators):
    write(photos, column(*cells))
    with pytest.raises(DataError, match=rf"labels\.csv.*{shown!r}.*set data\.label_separator"):
        opened(photos)
    apart, whole = (opened(photos, label_separator=separator) for separator in separators)
    assert {word for cell in words(apart) for word in cell.split()} == set(apart.class_names)
    assert shown in words(whole)
    # Where the classes are listed there is nothing to ask.
    for source in (apart, whole):
        write(photos, "\n".join(source.class_names), "classes.txt")
        listed = opened(photos)
        np.testing.assert_array_equal(listed.cls_labels, source.cls_labels)


@pytest.mark.parametrize("between", ["/", "+", " & ", " and ", "_", "-", " ", ":"])
def test_labels_that_are_several_others_are_asked(photos, between):
    several = f"bear{between}dog"
    write(photos, column(several, "dog", "bear", several))
    separator = re.escape(repr(between))
    message = rf"{re.escape(several)}' may be one class or several; set .*separator to {separator}"
    with pytest.raises(DataError, match=message):
        opened(photos)
    apart = opened(photos, label_separator=between)
    assert words(apart) == ["bear dog", "dog", "bear", "bear dog"]
    assert opened(photos, label_separator=";").class_names == ("bear", several, "dog")
    write(photos, f"bear\ndog\n{several}\n", "classes.txt")
    assert words(opened(photos)) == [several, "dog", "bear", several]


@pytest.mark.parametrize(
    "cells",
    [
        ["['cat', 'dog']", "['dog']", "['cat']", "[]"],
        ['[""cat"", ""dog""]', '[""dog""]', '[""cat""]', "[]"],
        ["{cat, dog}", "{dog}", "{cat}", "{}"],
        ["(cat, dog)", "(dog,)", "(cat,)", "()"],
        ["[1 0]", "[0 1]", "[1 1]", "[0 0]"],
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_lists_as_programs_print_them_are_refused(photos, cells, listed):
    write(photos, column(*(f'"{cell}"' for cell in cells)))
    if listed:
        write(photos, "cat\ndog\n", "classes.txt")
    with pytest.raises(DataError, match=r"labels\.csv: .* is a list as programs print it, no name"):
        opened(photos)


def test_items_of_lists_are_looked_at_as_texts_are(photos):
    for several in ("cat, dog", "cat+dog", "cat dog"):
        content = {"i0": [several], "i1": ["cat"], "i2": ["dog"], "i3": ["emu"]}
        write(photos, json.dumps(content), "labels.json")
        with pytest.raises(DataError, match=rf"{re.escape(several)}' may be one .* as items of th"):
            opened(photos)
        write(photos, "\n".join([several, "cat", "dog", "emu"]), "classes.txt")
        assert words(opened(photos)) == [several, "cat", "dog", "emu"]
        (photos / "classes.txt").unlink()
    write(photos, json.dumps({name: ["['cat']"] for name in NAMES}), "labels.json")
    with pytest.raises(DataError, match="is a list as programs print it"):
        opened(photos)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("0.7", "is a number with a fraction"),
        ("cat:0.9", "ends with a number with a fraction"),
        ("cat (0.93)", "ends with a number with a fraction"),
        ("#REF!", "is an error of a spreadsheet"),
        ("<annotation><object/></annotation>", "is a piece of XML"),
    ],
)
def test_what_is_no_name_of_a_class_is_refused(photos, cell, message):
    write(photos, column(cell, "cat", "dog", "cat"))
    with pytest.raises(DataError, match=rf"{re.escape(cell)}' {message}, no name of a class; "):
        opened(photos)


def test_images_labelled_unlabelled_are_refused(photos):
    write(photos, column("unlabeled", "cat", "dog", "_Unlabelled_"))
    with pytest.raises(DataError, match=r"class '_Unlabelled_' says that there is no label; leave"):
        opened(photos)
    write(photos, "cat\ndog\nunlabeled\n_Unlabelled_\n", "classes.txt")
    assert words(opened(photos))[0] == "unlabeled"


def test_brackets_alone_are_part_of_a_name(photos):
    write(photos, column("[cat]", "dog", "(emu)", "dog"))
    assert opened(photos).class_names == ("(emu)", "[cat]", "dog")


def test_names_of_two_words_are_taken_with_a_remark(photos):
    write(photos, column("traffic light", "hot dog", "dog", "traffic light"))
    source = opened(photos)
    assert words(source) == ["traffic light", "hot dog", "dog", "traffic light"]
    assert "1 label of several words, such as 'hot dog', is taken as one class" in said(source)


def test_commas_in_names_beside_semicolons(photos):
    write(photos, column("tench, big;dog", "dog", "tench, big", "dog", separator="\t"))
    assert opened(photos).class_names == ("dog", "tench, big")
    write(photos, column("cat;dog", '"cat,dog"', "cat", "dog"))
    with pytest.raises(DataError, match=r"'cat,dog'.*set data\.label_separator"):
        opened(photos)


def test_labels_that_are_missing(photos):
    write(photos, column("cat", "nan", "", "N/A"))
    source = opened(photos)
    assert source.class_names == ("cat",) and words(source) == ["cat", "", "", ""]
    assert "3 images have no label, the first one 'i1'" in said(source)
    content = '{"i0": ["cat", "nan"], "i1": null, "i2": NaN, "i3": "None"}'
    (photos / "labels.csv").unlink()
    write(photos, content, "labels.json")
    source = opened(photos)
    assert source.class_names == ("cat",) and words(source) == ["cat", "", "", ""]
    assert "3 images have no label" in said(source)


@pytest.mark.parametrize(
    "text",
    [
        "filename, cat, dog\ni0.jpg, 1, 0\ni1.jpg, 0, 1\ni2.jpg, 1, 1\ni3.jpg, 0, 0\n",
        "filename;cat;dog\ni0;1;0\ni1;0;1\ni2;1;1\ni3;0;0\n",
        "id,cat,dog\ni0,1.0,0.0\ni1,0.0,1.0\ni2,1.0,1.0\ni3,0.0,0.0\n",
        ",file,cat,dog\n0,i0,True,False\n1,i1,False,True\n2,i2,True,True\n3,i3,False,False\n",
    ],
)
def test_a_column_a_class(photos, text):
    write(photos, text)
    assert words(opened(photos)) == ["cat", "dog", "cat dog", ""]


def test_one_column_of_one_class(photos):
    write(photos, column("1", "0", "1", "0", heading="file,cat"))
    source = opened(photos)
    assert source.class_names == ("cat",) and words(source) == ["cat", "", "cat", ""]
    assert "column 'cat'" in said(source)


def test_columns_without_any_image_are_named(photos):
    write(photos, "file,cat,dog,emu\ni0.jpg,1,0,0\ni1.jpg,0,1,0\ni2.jpg,1,1,0\ni3.jpg,0,0,0\n")
    source = opened(photos)
    assert source.class_names == ("cat", "dog")
    assert "no image has a 1 in these columns, which alone make no classes: emu; list" in said(
        source
    )


def test_columns_without_headings_are_vectors(photos):
    write(photos, "i0.jpg,1,0\ni1.jpg,0,1\ni2.jpg,1,1\ni3.jpg,0,0\n")
    write(photos, "cat\ndog\n", "classes.txt")
    assert words(opened(photos)) == ["cat", "dog", "cat dog", ""]


def test_numbers_are_positions_in_the_listed_classes(photos):
    numbers = {"i0": 0, "i1": 1, "i2": [0, 1], "i3": []}
    files = {
        "labels.json": json.dumps(numbers),
        "labels.csv": column("0", "1", "0;1", ""),
        # As pandas writes whole numbers where some are missing.
        "labels.JSON": json.dumps({"i0": "0.0", "i1": "1.0", "i2": "0.0;1.0", "i3": ""}),
    }
    for name, text in files.items():
        write(photos, text, name)
        with pytest.raises(DataError, match=r"labels are numbers.*classes\.txt"):
            opened(photos, labels=name)
        write(photos, "cat\ndog\n", "classes.txt")
        source = opened(photos, labels=name)
        assert words(source) == ["cat", "dog", "cat dog", ""]
        assert "counted from 0" in said(source)
        write(photos, "1\n0\n", "classes.txt")  # classes that are called by numbers
        assert words(opened(photos, labels=name)) == ["0", "1", "1 0", ""]
        write(photos, "cat\n", "classes.txt")
        with pytest.raises(DataError, match=r"1 is no position.* 1 class"):
            opened(photos, labels=name)
        (photos / "classes.txt").unlink()


def test_vectors_and_positions_are_told_apart_by_the_whole_file(photos):
    write(photos, "cat\ndog\n", "classes.txt")
    write(
        photos, json.dumps({"i0": [0, 1], "i1": [1, 0], "i2": [1, 1], "i3": [0, 0]}), "labels.json"
    )
    assert words(opened(photos)) == ["dog", "cat", "cat dog", ""]
    write(photos, json.dumps({"i0": [0, 1], "i1": [1], "i2": [0], "i3": []}), "labels.json")
    assert words(opened(photos)) == ["cat dog", "dog", "cat", ""]
    write(photos, json.dumps({n: [True, False] for n in NAMES}), "labels.json")
    assert words(opened(photos)) == ["cat"] * 4


def test_records_with_a_number_and_a_name(photos):
    records = [{"id": k, "file": f"{n}.jpg", "label": PLAIN[k]} for k, n in enumerate(NAMES)]
    write(photos, json.dumps(records), "labels.json")
    assert words(opened(photos)) == PLAIN
    write(photos, json.dumps([{"image": {"path": "i0.jpg"}, "label": "cat"}]), "labels.json")
    with pytest.raises(DataError, match=r"has the key <dict>, which is no name"):
        opened(photos)


def test_a_list_of_records(photos):
    records = [{"file_name": f"{n}.jpg", "label": c} for n, c in zip(NAMES, PLAIN, strict=True)]
    write(photos, json.dumps(records), "labels.json")
    assert words(opened(photos)) == PLAIN
    write(photos, json.dumps([*records, {"file_name": "i4.jpg"}]), "labels.json")
    with pytest.raises(DataError, match=r"labels\.json.*entry 5 .*one name of an image and one"):
        opened(photos)


@pytest.mark.parametrize("other", ["./i0.jpg", "i0", "i0.JPG", ".\\i0.jpg", "i0.jpg"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_one_image_twice(photos, name, other):
    pairs = [*zip((f"{n}.jpg" for n in NAMES), PLAIN, strict=True), (other, "dog")]

    def write_pairs():
        if name == "labels.csv":
            text = "file,label\n" + "".join(f"{image},{label}\n" for image, label in pairs)
        else:
            items = ", ".join(f'{json.dumps(image)}: ["{label}"]' for image, label in pairs)
            text = f"{{{items}}}"
        write(photos, text, name)

    write_pairs()
    with pytest.raises(DataError, match=rf"{name}.*is there twice.*'i0.jpg'"):
        opened(photos)
    pairs[0] = pairs[0][0], "dog"
    write_pairs()
    source = opened(photos)
    assert words(source) == ["dog", "dog", "cat", "dog"]
    assert "1 image is there twice" in said(source)


def test_paths_below_the_root(photos):
    write(photos, column(*PLAIN).replace("i0", f"{photos}/i0"))
    write(photos, f"{photos}/i0.jpg\ni1\n.\\i2.jpg\ni3\n", "train.txt")
    source = opened(photos)
    assert source.names == NAMES and words(source) == PLAIN


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("i0.jpg 0", "'i0.jpg 0', which is more than the name of an image; write one"),
        ("i0.jpg,cat", "'i0.jpg,cat', which is more than the name of an image"),
        ("i0.jpg masks/i0.png", "which is more than the name of an image"),
        ("/elsewhere/i0.jpg", "'/elsewhere/i0.jpg', which is not below the data set's folder"),
        ("./i1.jpg", "has 'i1' twice"),
    ],
)
def test_lists_with_more_than_names(photos, line, message):
    write(photos, column(*PLAIN))
    write(photos, f"i1\n{line}\n", "train.txt")
    with pytest.raises(DataError, match=rf"list {photos}/train\.txt .*{message}"):
        opened(photos)


def test_the_same_letters_coded_otherwise(photos):
    cv2.imwrite(str(photos / "cafe\u0301.jpg"), np.full((4, 5, 3), 200, np.uint8))
    write(photos, "file,label\ncaf\u00e9.jpg,cat\n")
    write(photos, "caf\u00e9\n", "train.txt")
    source = opened(photos)
    assert source[0]["image"].shape == (4, 5, 3) and words(source) == ["cat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\ni0.jpg\ni1.jpg\n", r"only names of images; add a column of labels"),
        (",file\n0,i0.jpg\n1,i1.jpg\n", "only names of images; add a column of labels"),
        ("i0.jpg,cat\ni1.jpg,dog,emu\n", "line 2: 'i1.jpg,dog,emu' is not `file,label;label`"),
        ("file,cat,dog\ni0.jpg,1,0\ni1.jpg,2,0\n", "line 3, column 'cat': '2' is neither 0 nor 1"),
        ("file,cat,dog\ni0.jpg,1,0\ni1.jpg,,0\n", "line 3, column 'cat': '' is neither 0 nor 1"),
        ("file,width,kind\ni0.jpg,7,cat\n", "columns width, kind.* one of labels or one of 0"),
        ('file,label\ni0.jpg,"cat\ni1.jpg,dog\n', "unexpected end of data"),
        ("file,label\n,cat\ni1.jpg,dog\n", "line 2: .* is not `file,label;label`"),
        ("file,cat,cat\ni0.jpg,1,0\n", "column 'cat' is there twice"),
        ("file,cat,\ni0.jpg,1,0\n", "column 3 has no heading"),
        ("file|label\ni0.jpg|cat\n", r"one column, .*line 1: 'file\|label'\);.* semicolon or tab"),
        ("i0.jpg cat\ni1.jpg dog\n", "one column, which names no image .* semicolon or tab"),
        ("<html><body>Sign in</body></html>\n", "one column, which names no image"),
        ("file,cat,dog\ni0.jpg,1,-1\n", r"each class \(line 2 has '-1' in column 'dog'\)"),
        ("file,cat,dog\ni0.jpg,,x\n", r"each class \(line 2 has '' in column 'cat'\)"),
    ],
)
def test_broken_tables(photos, text, message):
    write(photos, text)
    with pytest.raises(DataError, match=rf"label file {photos}/labels\.csv.*{message}"):
        opened(photos)


BOXES = [
    "0 0.5 0.4 0.2 0.3\n1 0.1 0.2 0.1 0.1\n",
    "1 0.1 0.2 0.3 0.4 0.5 0.6\n",
    "",
    "0 .5 .5 1 1\n",
]


def test_boxes_beside_images_are_no_names(photos):
    for name, text in zip(NAMES, BOXES, strict=True):
        write(photos, text, f"{name}.txt")
    with pytest.raises(DataError, match=r"i0\.txt.*boxes.*classes\.txt"):
        opened(photos)
    write(photos, "cat\ndog\n", "classes.txt")
    assert words(opened(photos)) == ["cat dog", "dog", "", "cat"]
    write(photos, "cat\n", "classes.txt")
    with pytest.raises(DataError, match=r"1 is no position.* 1 class"):
        opened(photos)
    write(photos, "dog\n", "i3.txt")
    with pytest.raises(DataError, match=r"i0\.txt.*boxes.*i3\.txt.*names"):
        opened(photos)


@pytest.mark.parametrize(
    "texts",
    [
        ["0.0 0.5 0.5 0.1 0.1", "1.0 0.5 0.5 0.2 0.1", "", "0.0 .1 .1 1 1"],  # YOLO, by pandas
        ["cat 0.5 0.5 0.1 0.1", "dog 0.5 0.4 0.1 0.1", "cat 0 0 1 1", "dog 0 0 .5 .5"],
        ["Car 0.00 0 1.85 387 181 423 203", "Van 0.00 0 -0.2 7 1 8 3", "", ""],  # KITTI
        ["gsd:null\n2 4 8 4 8 8 2 5 plane 0", "7 2 6 2 8 4 5 4 ship 0", "", ""],  # DOTA
        ["377,117,463,117,465,130,Genaxis", "493,115,519,115,519,131,[06]", "", ""],  # ICDAR
    ],
)
def test_coordinates_are_no_part_of_a_name(photos, texts):
    for name, text in zip(NAMES, texts, strict=True):
        write(photos, text, f"{name}.txt")
    with pytest.raises(DataError, match=r"text files .* holds coordinates, no name of a class;"):
        opened(photos)


@pytest.mark.parametrize("ending", ["txt", "TXT", "Txt"])
def test_text_files_of_every_spelling(photos, ending):
    for name, text in zip(NAMES, PLAIN, strict=True):
        write(photos, text, f"{name}.{ending}")
    assert words(opened(photos)) == PLAIN


def test_a_list_may_name_what_has_no_text(photos):
    for name in NAMES[:3]:
        write(photos, "cat", f"{name}.txt")
    for names in ("i0\ni3\n", "i0\nnowhere\n"):
        write(photos, names, "train.txt")
        missing = names.split()[1]
        with pytest.raises(DataError, match=rf"label file {photos}/{missing}\.txt is missing; add"):
            opened(photos)


def test_numbers_beside_images(photos):
    for name, text in zip(NAMES, ["0", "1", "0\n1", ""], strict=True):
        write(photos, text, f"{name}.txt")
    with pytest.raises(DataError, match=r"labels are numbers.*classes\.txt"):
        opened(photos)
    write(photos, "cat\ndog\n", "classes.txt")
    assert words(opened(photos)) == ["cat", "dog", "cat dog", ""]


def test_a_class_in_other_letters_is_suggested(photos):
    write(photos, "cat\ntraffic light\n", "classes.txt")
    for cell, meant in (("Cat", "cat"), ("traffic_light", "traffic light")):
        write(photos, column(cell, "cat", "cat", "cat"))
        with pytest.raises(DataError, match=rf"{cell!r} is none of .*did you mean {meant!r}"):
            opened(photos)
    write(photos, "caf\u00e9\n", "classes.txt")
    write(photos, column("cafe\u0301", "cat", "cat", "cat"))
    with pytest.raises(DataError, match=r"did you mean 'caf\\xe9', not 'cafe\\u0301'\?"):
        opened(photos)
