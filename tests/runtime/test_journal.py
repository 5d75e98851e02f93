"""Entries on the disk: whatever the order and whenever it is read, they are all there."""

import pytest

from toco_jax.runtime import journal
from toco_jax.runtime.journal import Journal


def test_entries_come_in_the_order_of_their_numbers(tmp_path):
    entries = Journal(tmp_path)
    assert list(entries) == [] and len(entries) == 0
    for number in (3, 0, 2):
        entries.add(number, {"text": f"a\n{number}\udcff" * 9000})
        found = [entry["text"][2] for entry in entries]
        assert found == sorted(found) and len(found) == len(entries)
    assert found == ["0", "2", "3"]
    reading = iter(entries)
    first = next(reading)
    assert next(iter(entries)) == first and next(reading)["text"][2] == "2"
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_is_interrupted_hurts_no_other(tmp_path, monkeypatch):
    entries = Journal(tmp_path)
    entries.add(0, "zero")

    class Interrupted:
        def dumps(self, _):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "json", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            entries.add(1, "one")
    assert list(entries) == ["zero"]
    entries.add(2, "two")
    assert list(entries) == ["zero", "two"]
