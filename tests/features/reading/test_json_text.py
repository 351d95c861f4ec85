"""What stands behind the object of a JSON line is refused, whatever it is."""

import pytest

from features.reading.fields import LineError
from features.reading.json_text import parse_object


@pytest.mark.parametrize(("rest", "found"), [
    ("\u2028", "something else"),
    ("\x0b \x85", "something else"),
    (" ,", "a comma"),
    (' {"b": 2}', "another object"),
])  # fmt: skip
def test_what_follows_the_object_of_a_line_is_refused(rest: str, found: str) -> None:
    with pytest.raises(LineError, match=f"not valid JSON lines: {found} after the object, at character"):
        parse_object('{"a": 1}' + rest)
    assert parse_object('{"a": 1} \t\r\n') == {"a": 1}
