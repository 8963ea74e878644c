"""Names that users choose cannot break the Markdown that operators read."""

import pytest

from domain.rules.markdown import quoted


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web-1", "`web-1`"),
        ("a`b``c", "`a'b''c`"),
        ("two\nlines\u2028or\tmore", "`two lines or more`"),
        ("[click](http://evil) <b>*bold*</b>", "`[click](http://evil) <b>*bold*</b>`"),
        ("\u202eabc\u2066def\u2069", "`abcdef`"),
        ("дом-1 \U0001f600", "`дом-1 \U0001f600`"),
    ],
)
def test_a_name_is_quoted_on_one_line_in_reading_order(name: str, shown: str) -> None:
    assert quoted(name) == shown
