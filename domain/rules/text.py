"""Rules for texts from people: their one form, which characters a reader cannot see, when two texts are equal.

The database compares texts by the rules of its locale, and in the locale C it knows ASCII only. So texts are brought
into one form here, before they are stored or searched.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Final
from unicodedata import category, combining, name, normalize

import idna

# Controls, surrogates, private use, unassigned characters and separators of lines. Unicode promises nothing about what
# a reader sees in their place.
_UNSEEN_CATEGORIES: Final = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
# Unicode's Default_Ignorable_Code_Point (bidirectional controls, fillers, tags), the annotation characters, the joiners
# of hieroglyphs and shorthand, letters and symbols that are drawn as a blank, and all spaces but the usual one, which
# look like it; those up to U+FFFF. The joiners and selectors of _EXCUSED have places of use.
UNSEEN: Final = (
    r"\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f\u2800"
    r"\u3000\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffc"
)
_EXCUSED = r"\u180b-\u180f\u200c\u200d\ufe0e\ufe0f"
_HIGHER = (
    r"\U00013430-\U00013442\U00016fe4\U0001bc9d\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
_UNSEEN = re.compile(f"[{UNSEEN}{_EXCUSED}{_HIGHER}]")
_FUTURE_EMOJI = re.compile("[\U0001f000-\U0001faff\U0001fc00-\U0001fffd]")  # what Unicode reserves for them
# The flags of England, Scotland and Wales: a black flag, then tags, which are in their place nowhere else.
_FLAGS = re.compile(
    f"\U0001f3f4(?:{'|'.join(''.join(chr(0xE0000 + ord(c)) for c in part) for part in ('gbeng', 'gbsct', 'gbwls'))})"
    "\U000e007f"
)
_JOINERS = "\u200c\u200d"
# Selectors of another form of a Mongolian letter, and of a variant of a Chinese character, as in Japanese names: the
# first, the last, and how Unicode's names of the letters begin that they change.
_VARIANTS: Final = (("\u180b", "\u180f", "MONGOLIAN LETTER"), ("\U000e0100", "\U000e01ef", "CJK UNIFIED"))
# A joiner may stand between two letters of these scripts, as in Persian words.
_JOINED_SCRIPTS = ("ARABIC", "SYRIAC", "MONGOLIAN", "NKO", "MANDAIC")
_EMOJI_STYLE = "\ufe0e\ufe0f"
_EMOJI_OF_OTHER_CATEGORIES = "\u203c\u2049\u2139\u3030"
_KEYS, _KEYCAP = "0123456789#*", "\u20e3"
_MOST_REMEMBERED = 4096  # characters: to look one up in Unicode's tables costs ten times as much
_VIRAMA = 9  # the combining class of the signs that join letters in Indic scripts
_LONGEST_RUN = 4  # letters that a search spells in all ways together; the ways of more would be too many
_LETTERS_WITH_CASE = range(0x20000)  # the planes that have letters with case
# The planes that have accents and letters with accents, but surrogates; and Chinese characters that have a second code.
_LETTERS_WITH_OTHER_FORMS = (*range(0xD800), *range(0xE000, 0x20000))
_CJK_WITH_OTHER_FORMS = range(0x2F800, 0x2FA20)


def tidy(text: str) -> str:
    """The text without white space around it, in the form NFC: texts that look the same are the same."""
    return in_nfc(text.strip())


def in_nfc(text: str) -> str:
    """The text in the form NFC, to compare it: texts that look the same are the same."""
    return normalize("NFC", text)


def find_unseen(text: str) -> str | None:
    """The first character that a reader cannot see or that changes the order of others; None if there is none.

    Joiners and selectors are in their place between the letters and emoji that they change, but nowhere else: there
    they would only make two names look the same.
    """
    if text.isprintable() and not _UNSEEN.search(text):
        return None
    text = _FLAGS.sub("\U0001f3f4", text)
    for position, character in enumerate(text):
        if is_unseen(character) and not _is_in_its_place(text, position):
            return character
    return None


@lru_cache(_MOST_REMEMBERED)
def is_unseen(character: str) -> bool:
    """Whether a reader sees nothing in the place of this character, or cannot know what."""
    return _category(character) in _UNSEEN_CATEGORIES or _UNSEEN.match(character) is not None


def is_visible(text: str) -> bool:
    """Whether the text has a letter, digit, sign or symbol: anything but white space and accents."""
    return any(_category(character)[0] in "LNPS" and not is_unseen(character) for character in text)


def _category(character: str) -> str:
    """The character's category. An emoji that is newer than Python's version of Unicode is a symbol, too."""
    known = category(character)
    return "So" if known == "Cn" and _FUTURE_EMOJI.match(character) else known


def _is_in_its_place(text: str, position: int) -> bool:
    """Whether a character that nobody sees changes those beside it."""
    if position == 0:
        return False
    letter = position - 1
    while letter >= 0 and combining(text[letter]):
        letter -= 1
    base = text[letter] if letter >= 0 else ""
    return _changes(base, text[position - 1], text[position], text[position + 1 : position + 2])


def _changes(letter: str, previous: str, character: str, following: str) -> bool:
    """Whether a character changes the two beside it; `letter` is the last one before it that is no accent, if any."""
    if character in _JOINERS:
        virama = combining(previous) == _VIRAMA
        if virama or not following:
            return virama
        if combining(following) == _VIRAMA or (_is_of_joined_script(letter) and _is_of_joined_script(following)):
            return True
        return character == "\u200d" and (_is_emoji(previous) or previous in _EMOJI_STYLE) and _is_emoji(following)
    if character in _EMOJI_STYLE:
        return _is_emoji(previous) or (previous in _KEYS and following == _KEYCAP)
    for first, last, changed in _VARIANTS:
        if first <= character <= last:
            return name(previous, "").startswith(changed)
    return False


@lru_cache(_MOST_REMEMBERED)
def _is_of_joined_script(character: str) -> bool:
    return bool(character) and name(character, "").startswith(_JOINED_SCRIPTS)


@lru_cache(_MOST_REMEMBERED)
def _is_emoji(character: str) -> bool:
    return (_category(character)[0] == "S" and not character.isascii()) or character in _EMOJI_OF_OTHER_CATEGORIES


def folded(text: str) -> str:
    """The text for comparisons that ignore case and the form of accents (Unicode's canonical caseless match)."""
    return normalize("NFC", normalize("NFD", text).casefold())


def email_key(email: str) -> str:
    """What an e-mail address is compared by: the mailbox without case and style, the domain as DNS has it."""
    mailbox, _, domain = email.rpartition("@")
    try:
        host = dns_name(domain)
    except ValueError:  # an address of an early account
        host = folded(domain)
    return f"{normalize('NFKC', folded(normalize('NFKC', mailbox)))}@{host}"


def dns_name(domain: str) -> str:
    """The domain in the form of DNS, where `MÜNCHEN.de` is `xn--mnchen-3ya.de`; ValueError if it cannot be one."""
    host = idna.encode(domain, uts46=True).decode()
    if host.endswith("."):
        raise ValueError("A domain has no empty label.")
    return host


def password_forms(password: str) -> list[str]:
    """The forms in which an account may have the password: the one to store (RFC 8265) and, if it differs, as sent.

    Keyboards differ in how they send an accented letter or a space. Early accounts have their passwords as sent.
    """
    spaces = "".join(" " if category(character) == "Zs" else character for character in password)
    return list(dict.fromkeys([normalize("NFC", spaces), password]))


def search_runs(text: str) -> list[str]:
    """Those runs of letters, decomposed and without case, that every name has which `search_pattern` finds.

    They end at accents: in a name, others may stand before them.
    """
    decomposed = normalize("NFD", normalize("NFD", text).casefold())
    parts = "".join("\n" if combining(letter) or is_unseen(letter) else letter for letter in decomposed).split("\n")
    return [part for part in parts if part]


def search_pattern(text: str) -> str:
    """A regular expression of PostgreSQL that finds the text in names, whatever their case and form of accents.

    It lists the forms of each letter. So it finds names that were stored before names had one form, in any locale.
    """
    wanted, pattern, start = folded(text), "", 0
    while start < len(wanted):
        end = _end_of_run(wanted, start)
        spellings = _spellings(wanted[start:end], is_last=end == len(wanted))
        if start == 0:
            spellings += _cut_at_the_start(wanted[:end], is_last=end == len(wanted))
        pattern += _any_of(spellings)
        start = end
    return pattern


def _end_of_run(wanted: str, start: int) -> int:
    """The end of a run: letters of which some stand together in one letter, as in `ﬃ` or in `ﬀ` and `ﬁ` for `ffi`."""
    position, end = start, start + 1
    while position < end < start + _LONGEST_RUN:
        ends = [position + size for size in (2, 3) if position + size <= len(wanted)]
        end = max([end, *(other for other in ends if wanted[position:other] in _letters_folded_to())])
        position += 1
    return end


def _spellings(run: str, *, is_last: bool) -> list[str]:
    """Patterns of all ways to write the run; the last one may end with a part of what a letter stands for."""
    if not run:
        return [""]
    spellings = [_letter(run[0]) + rest for rest in _spellings(run[1:], is_last=is_last)]
    for size in (2, 3):
        if letters := _letters_folded_to().get(run[:size]) if len(run) >= size else None:
            spellings += [_one_of(letters) + rest for rest in _spellings(run[size:], is_last=is_last)]
    if is_last and (letters := [x for key, x in _joined() if key.startswith(run) and key != run]):
        spellings.append(_one_of(letters))
    return spellings


def _cut_at_the_start(run: str, *, is_last: bool) -> list[str]:
    """Patterns that begin with a part of what a letter stands for, as `s` is a part of `ß`."""
    spellings = []
    for size in (1, 2):
        if letters := [x for key, x in _joined() if key.endswith(run[:size]) and len(key) > size <= len(run)]:
            spellings += [_one_of(letters) + rest for rest in _spellings(run[size:], is_last=is_last)]
    return spellings


def _letter(letter: str) -> str:
    """The pattern of everything that is folded to this one letter."""
    forms = [_one_of([letter, *_letters_folded_to().get(letter, [])])]
    parts = normalize("NFD", letter)
    if len(parts) > 1:
        # The last accent may stand alone: `ῢ` in upper case is `Ϋ` and an accent, because one letter for it is missing.
        forms.append("".join(map(_letter, normalize("NFC", parts[:-1]))) + _letter(parts[-1]))
    return _any_of(forms)


def _any_of(patterns: list[str]) -> str:
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"


def _one_of(letters: list[str]) -> str:
    if len(letters) > 1:
        return f"[{''.join(letters)}]"
    [letter] = letters
    return letter if letter.isalnum() or not letter.isascii() else f"\\{letter}"


@cache
def other_form_pattern() -> str:
    """A regular expression of PostgreSQL: a text in which it finds nothing is in NFC.

    It takes a twentieth of the time of PostgreSQL's `normalize`. It has the letters that NFC replaces, and those that
    it joins with the letter before them or puts in order.
    """
    others = set[str]()
    for letter in map(chr, _LETTERS_WITH_OTHER_FORMS):
        parts = normalize("NFD", letter)
        others.update(parts[1:])
        if combining(letter) or normalize("NFC", letter) != letter:
            others.add(letter)
    others.update(map(chr, _CJK_WITH_OTHER_FORMS))
    pattern = ""
    for first, last in _ranges(sorted(map(ord, others))):
        pattern += chr(first) if first == last else f"{chr(first)}-{chr(last)}"
    return f"[{pattern}]"


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of the numbers that follow each other without a gap."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number > last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


@cache
def _letters_folded_to() -> dict[str, list[str]]:
    """The other letters that are folded to a letter or to several, as `K` and the kelvin sign to `k`, `ß` to `ss`."""
    others: dict[str, list[str]] = {}
    for letter in map(chr, _LETTERS_WITH_CASE):
        if (key := folded(letter)) != letter and not "\ud800" <= letter <= "\udfff":
            others.setdefault(key, []).append(letter)
    return others


@cache
def _joined() -> list[tuple[str, str]]:
    """The letters that stand for several, each after what it is folded to."""
    return [(key, letter) for key, letters in _letters_folded_to().items() if len(key) > 1 for letter in letters]
