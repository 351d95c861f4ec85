"""A document that was written knows whether it was changed since."""

import json

import pytest

from ranking.stores.files import as_signed_json, signed


@pytest.mark.parametrize("settings", [{2: 1, 10: 2}, {10: {9: 0, 11: 0}, 2: [1.5, None]}, {"2": 1, "10": (1, 2)}])
def test_a_document_reads_as_what_was_written_whatever_its_keys(settings: dict) -> None:
    read = json.loads(as_signed_json({"settings": settings}))
    assert signed(read)
    key = next(iter(read["settings"]))
    assert not signed({**read, "settings": {**read["settings"], key: "other"}})
