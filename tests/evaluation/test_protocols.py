"""Names of protocols as users give them, and the words that tell protocols apart."""

import pytest

from toco_jax.evaluation.protocols import CRF, NATIVE, EvaluationError, describe, parse


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ("448", NATIVE, CRF)),
        ("crf", (CRF,)),
        (" 32, native,crf ", ("32", NATIVE, CRF)),
        (("native", "1", "native+crf", "crf", 1), (NATIVE, "1", CRF)),
    ],
)
def test_names(names, expected):
    assert parse(names, 448) == expected


@pytest.mark.parametrize("names", ["0", "-1", "3.5", "", "448,", "Native", ("448", "x")])
def test_a_name_that_is_none_is_refused(names):
    wrong = repr(names.split(",")[-1] if isinstance(names, str) else names[-1])
    with pytest.raises(EvaluationError, match=f"--protocol has {wrong}.* such as 448, native"):
        parse(names, 448)


def test_no_name_is_refused():
    with pytest.raises(EvaluationError, match="--protocol is empty: use 448, native, or crf"):
        parse((), 448)


def test_descriptions_differ():
    found = [
        describe("32", (1.0, 0.5)),
        describe("32", (1.0,)),
        describe(NATIVE, (1.0,), {"top_k": 3}),
        describe(CRF, (1.0,)),
        describe(CRF, (1.0,), {"top_k": 3, "exact_gaussian": True}),
    ]
    assert found == [
        "32, single scale (CAM scales 1, 0.5)",
        "32, single scale (CAM scales 1)",
        "native, multi-scale",
        "native, multi-scale, CRF",
        "native, multi-scale, CRF (approximate: top_k=3, exact_gaussian=True)",
    ]
