"""What a stranger wrote cannot steer a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from dataset_builder.pages import visible
from dataset_builder.printable import printable


@given(st.text())
def test_no_control_character_is_left(text: str):
    shown = printable(text)
    assert all(
        character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf")
        for character in shown
    )


def test_plain_text_stays_and_escapes_become_visible():
    assert printable("naïve 日本語\n\tok") == "naïve 日本語\n\tok"
    assert printable("\x1b]8;;evil\x07x") == "\\x1b]8;;evil\\x07x"
    assert printable("a\u202eb") == "a\\u202eb"


def test_a_page_shows_the_ends_of_lines_as_one_kind_and_what_is_no_text_as_it_is():
    assert visible("a\r\nb\n\rc") == "a\nb\n\\rc"
    assert visible("a\u202eb") == "a\\u202eb"
    ours = Markup("<b>\r\n</b>")
    assert visible(ours) is ours
    assert visible(5) == 5
