"""Texts: their one form, what readers cannot see, and when two texts are the same."""

import re
import sys
from unicodedata import combining, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.rules import text

LETTERS = st.characters(categories=["L", "M", "N", "P", "S", "Zs"])
TEXTS = st.text(LETTERS, min_size=1, max_size=20)


def _tags(letters: str) -> str:
    return "".join(chr(0xE0000 + ord(letter)) for letter in letters)


SAME = [
    ("été", "ÉTÉ"),
    ("e\u0301te\u0301", "ÉTÉ"),
    ("straße", "STRASSE"),
    ("İstanbul", "i̇stanbul"),
    ("σίσυφος", "ΣΊΣΥΦΟΣ"),
    ("ОБЛАКО", "облако"),
    ("\N{KELVIN SIGN}ube", "kube"),
    ("ǆ", "ǅ"),
    ("ῢ", "ῢ".upper()),  # which has no single letter for it
]


@given(TEXTS)
def test_tidying_a_text_twice_changes_nothing_more(given: str) -> None:
    assert text.tidy(text.tidy(given)) == text.tidy(given)
    assert text.tidy(normalize("NFD", given)) == text.tidy(given)


@pytest.mark.parametrize("space", [" ", "\t", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "\N{EM SPACE}", "\n"])
def test_white_space_of_every_kind_around_a_text_goes(space: str) -> None:
    assert text.tidy(f"{space}web 1{space}") == "web 1"


def test_every_character_is_folded_once_and_for_all() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    assert [c for c in characters if text.folded(text.folded(c)) != text.folded(c)] == []
    assert [c for c in characters if text.folded(normalize("NFD", c)) != text.folded(c)] == []


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_differ_in_case_or_form_are_folded_to_the_same(one: str, other: str) -> None:
    assert text.folded(one) == text.folded(other)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_search_finds_a_name_in_another_case_or_form(one: str, other: str) -> None:
    for part, name in ((one, other), (other, one), (one, normalize("NFD", other)), (other, normalize("NFC", one))):
        assert re.search(text.search_pattern(part), f"a {name} b")


@given(TEXTS, st.sampled_from([str, str.upper, str.lower, str.casefold]))
def test_a_search_finds_what_is_folded_to_the_same(name: str, change: type[str]) -> None:
    # The pattern is PostgreSQL's; of what it uses, Python's means the same. The query brings names into NFC first.
    changed = normalize("NFC", change(name))
    if text.folded(changed) == text.folded(name):
        assert re.search(text.search_pattern(name), changed)


@given(st.text(max_size=5), st.text(max_size=5))
def test_a_search_finds_nothing_that_is_folded_to_another_text(part: str, name: str) -> None:
    if re.search(text.search_pattern(part), name):
        assert text.folded(part) in text.folded(name)


@given(st.text("sſßtﬆfﬀiﬁlﬃk", min_size=1, max_size=2), st.text("sSßtTﬅfﬀiﬁLﬃ", max_size=6))  # noqa: RUF001
def test_a_search_finds_a_part_of_what_one_letter_stands_for(part: str, name: str) -> None:
    is_found = re.search(text.search_pattern(part), name) is not None
    assert len(text.folded(part)) > text._LONGEST_RUN or is_found == (text.folded(part) in text.folded(name))


@pytest.mark.parametrize(
    ("part", "name"), [("stras", "Straße"), ("off", "oﬃce"), ("ice", "oﬃce"), ("office", "oﬀice"), ("ffi", "ofﬁce")]
)
def test_a_search_finds_a_name_while_its_letters_are_typed(part: str, name: str) -> None:
    assert re.search(text.search_pattern(part), name)


@pytest.mark.parametrize(
    "name",
    [
        "web-1",
        "été 2026",
        "облако",
        "שלום",
        "データ 1",
        "می\u200cخواهم",  # noqa: RUF001 - Persian: a non-joiner between letters
        "क्\u200dष",  # Hindi: a joiner after a virama
        "র\u200d্য",  # Bengali: a joiner before a virama
        "ᠭᠣ\u180bᠯ",  # Mongolian: another form of the letter before it
        "ᠬᠠᠷ\u180eᠠ",  # and a vowel apart from its word
        "葛\U000e0100城",  # Japanese: a variant of a Chinese character
        "❤\ufe0f",
        *("\u203c\ufe0f", "\u2139\ufe0f"),  # punctuation and a letter that are emoji, too
        "1\ufe0f\u20e3",
        "👩\u200d💻",
        "👨🏽\u200d💻",
        "🏳\ufe0f\u200d🌈",
        "🙂\u200d↔\ufe0f",
        *(f"🏴{tags}\U000e007f" for tags in (_tags("gbeng"), _tags("gbsct"), _tags("gbwls"))),
        "\U0001fae9",  # of Unicode 16
        "\U0001f2ff\u200d\U0001fc01",  # reserved for emoji that do not exist yet
    ],
    ids=ascii,
)
def test_text_of_all_languages_and_emoji_can_be_seen(name: str) -> None:
    assert text.find_unseen(name) is None
    assert text.is_visible(name)


@pytest.mark.parametrize(
    "character",
    [
        *("\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"),  # controls and separators of lines
        *("\u00ad", "\u034f", "\u200b", "\u2060", "\u2062", "\ufeff", "\u180e"),  # nothing to see
        *("\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069"),  # bidirectional controls
        *("\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\U0001d159", "\U00016fe4"),  # letters drawn as a blank
        *(
            "\ufff9",
            "\ufffb",
            "\ufffc",
            "\U000e0041",
            "\U000e007f",
            "\U0001d173",
            "\U00013430",
            "\U00013438",
            "\U00013442",
            "\U0001bc9d",
        ),  # annotations, tags, controls of music, hieroglyphs and shorthand
        *("\ud800", "\udfff", "\ue000", "\U000f0000", "\ufdd0", "\uffff", "\U0010ffff", "\u0378"),  # no characters
        *("\u200c", "\u200d", "\ufe00", "\ufe0f", "\U000e0100"),  # between letters that they do not change
    ],
    ids=ascii,
)
def test_a_character_that_cannot_be_seen_is_found(character: str) -> None:
    assert text.find_unseen(f"we{character}b") == character
    assert text.find_unseen(character) == character
    assert not text.is_visible(character)


@pytest.mark.parametrize("tags", ["", _tags("gbeng"), _tags("usca") + "\U000e007f", "\U000e007f"], ids=ascii)
def test_tags_that_make_no_flag_are_found(tags: str) -> None:
    name = f"🏴{tags}{_tags('x')}"
    assert text.find_unseen(name) == name[1]


@pytest.mark.parametrize("name", ["\N{COMBINING ACUTE ACCENT}", "\N{NO-BREAK SPACE}", "\u3000\u0301", ""], ids=ascii)
def test_spaces_and_accents_alone_are_not_visible(name: str) -> None:
    assert not text.is_visible(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ÄNNA@example.com", "änna@example.com"),
        ("a\u0308nna@example.com", "änna@EXAMPLE.com"),
        ("anna@münchen.example", "anna@xn--mnchen-3ya.example"),
        ("anna@MU\u0308NCHEN.example", "anna@münchen.example"),
        ("anna@example\N{IDEOGRAPHIC FULL STOP}com", "anna@example.com"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}nna@example.com", "anna@example.com"),
        ("STRASSE@example.com", "straße@example.com"),
    ],
)
def test_addresses_of_one_mailbox_have_one_key(one: str, other: str) -> None:
    assert text.email_key(one) == text.email_key(other)


@given(st.emails())
def test_the_key_of_an_address_in_ascii_is_its_lower_case(email: str) -> None:
    """The database's index relies on this: it computes these keys itself."""
    assert text.email_key(email) == email.lower()


@given(TEXTS.filter(lambda mailbox: "@" not in mailbox))
def test_the_key_of_a_key_is_the_key(mailbox: str) -> None:
    key = text.email_key(f"{mailbox}@example.com")
    assert text.email_key(key) == key


def test_a_password_is_tried_in_its_normal_form_and_then_as_sent() -> None:
    assert text.password_forms("Passwort-1") == ["Passwort-1"]
    assert text.password_forms("Pa\u0308sswort-1") == ["Pässwort-1", "Pa\u0308sswort-1"]
    assert text.password_forms("a\N{NO-BREAK SPACE}b") == ["a b", "a\N{NO-BREAK SPACE}b"]


def test_a_text_without_a_letter_of_other_forms_is_in_nfc() -> None:
    pattern = re.compile(text.other_form_pattern())
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    plain = [letter for letter in letters if not pattern.search(letter)]
    assert {letter for letter in letters if normalize("NFC", letter) != letter}.isdisjoint(plain)
    assert not any(map(combining, plain))
    # Nothing that such letters are decomposed to is a later part of another letter, so no two of them become one.
    later = {part for letter in letters for part in normalize("NFD", letter)[1:]}
    assert later.isdisjoint(plain)


@pytest.mark.parametrize("name", ["café", "Straße", "ОБЛАКО-1", "名前", "서버", "Ελλάδα", "ﬀ", "\N{CLOUD}", "żółć"])
def test_usual_names_have_no_letter_of_other_forms(name: str) -> None:
    """PostgreSQL takes twenty times as long to bring a name into NFC as to look for a part in it."""
    assert not re.search(text.other_form_pattern(), normalize("NFC", name))
    assert re.search(text.other_form_pattern(), f"{name}e\u0301")
