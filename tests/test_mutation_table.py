"""The table of the mutation testing is about the code as it is; the testing itself takes hours."""

import pathlib

import pytest
from mutation import table

REPOSITORY = pathlib.Path(__file__).parents[1]
TESTS = table.MODULES | table.ONLY_BY_HAND


@pytest.mark.parametrize("module", TESTS)
def test_modules_and_tests_are_there(module):
    assert (REPOSITORY / module).is_file()
    files = [test for test in TESTS[module] if test.startswith("tests/")]
    assert files and all((REPOSITORY / file).is_file() for file in files)


@pytest.mark.parametrize("module", table.BY_HAND)
def test_mutants_made_by_hand_change_one_place(module):
    source = (REPOSITORY / module).read_text()
    for name, old, new in table.BY_HAND[module]:
        assert source.count(old) == 1, name
        compile(source.replace(old, new), module, "exec")


def test_equivalent_mutants_change_what_is_there():
    for module, named in table.EQUIVALENT.items():
        source = " ".join((REPOSITORY / module).read_text().split())
        for _, change in named:
            old = " ".join(change.split(" -> ", maxsplit=1)[0].split())
            assert old in source, change
