"""The terms by which resources are found: every name that the filter accepts has them, and triggers keep them."""

from string import ascii_lowercase
from unicodedata import normalize
from uuid import uuid4

from alembic import command
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data import search
from domain.data.models import VM, Snapshot, Volume
from domain.data.search import MOST_TERMS, SearchTerms, in_name, of_label, search_for
from domain.rules.text import folded, search_pattern
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_snapshot, add_user, add_vm, add_volume

MISSED = """
SELECT name, part
FROM unnest(cast(:names AS text[]), cast(:parts AS text[]), cast(:patterns AS text[]), cast(:terms AS text[]))
    AS searched (name, part, pattern, terms)
WHERE normalize(name) ~ pattern AND NOT (search_terms_of('v', :owner, name, '{}') @@ cast(terms AS tsquery))
"""
FOUND = """
SELECT count(*) FROM unnest(cast(:names AS text[]), cast(:patterns AS text[])) AS searched (name, pattern)
WHERE normalize(name) ~ pattern
"""
STRANGE = (
    "Straße",
    "ﬁn",
    "ﬃ",
    "İ",
    "ΐ",
    "ᾳ",
    "ᾼ",
    "Σς",
    "e\u0323\u0302",
    "J\u030c",
    "ǰ",
    "가각",
    "數據庫",
    "Сервер",
    "\u212a",
    "ŉ",
)


def terms(part: str, owner: str) -> str:
    """The tsquery of a part of a name."""
    found = search.search_for("v", search.in_name(part))
    assert found
    return found.terms.replace("\x01", f"v{owner[:6]}")


async def test_each_name_that_the_filter_accepts_has_the_terms_of_the_part(engine: AsyncEngine) -> None:
    """Each letter that has another form, and words in which letters join, in all their forms."""
    owner, pairs = str(uuid4()), list[tuple[str, str]]()
    for letter in map(chr, range(0x80, 0x20000)):
        if (key := folded(letter)) != letter and not "\ud800" <= letter <= "\udfff":
            pairs += [(f"ab{letter}cd", f"b{key}c"), (f"ab{key}cd", f"B{letter}"), (f"x{letter}", key)]
    for word in STRANGE:
        for form in (word, word.upper(), word.lower(), normalize("NFD", word), folded(word)):
            pairs += [(f"1-{form}-2", part) for part in (word, form, form[:1], form[-1:], f"-{form}", f"{word}-")]
            pairs += [(f"1-{word}-2", part) for part in (form, form[:2], form[-2:])]
    pairs = [(name, part) for name, part in pairs if any(search.in_name(part))]
    names, parts = map(list, zip(*pairs, strict=True))
    values = {"names": names, "patterns": [search_pattern(part) for part in parts]}
    async with engine.connect() as connection:
        assert await connection.scalar(text(FOUND), values) > len(pairs) * 0.9
        asked = {**values, "parts": parts, "terms": [terms(part, owner) for part in parts], "owner": owner}
        assert (await connection.execute(text(MISSED), asked)).all() == []


async def terms_of(tx: AsyncConnection, row: VM | Volume | Snapshot) -> str | None:
    """The terms of a resource."""
    found: str | None = await tx.scalar(select(SearchTerms.terms).where(SearchTerms.id == row.id))
    return found


async def test_terms_follow_the_name_and_the_labels_and_go_with_the_row(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user, name="ab", labels={"k": "it's"})
        mark = user.id.hex[:6]
        assert await terms_of(tx, vm) == f"'lv{mark}k=it''s' 'v{mark}ab' 'v{mark}b'"
        for row, kind in ((await add_volume(tx, user), "d"), (await add_snapshot(tx, vm), "s")):
            assert f"'{kind}{mark}" in (await terms_of(tx, row) or "")
        await tx.execute(update(VM).where(VM.id == vm.id).values(name="c"))
        assert await terms_of(tx, vm) == f"'lv{mark}k=it''s' 'v{mark}c'"
        await tx.execute(update(VM).where(VM.id == vm.id).values(labels={}))
        assert await terms_of(tx, vm) == f"'v{mark}c'"
        await tx.execute(text("DELETE FROM snapshots"))
        await tx.execute(text("DELETE FROM vms"))
        assert await terms_of(tx, vm) is None


async def test_rows_that_are_older_than_the_triggers_get_their_terms(settings: Settings, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.run_sync(lambda connection: command.downgrade(alembic_config(connection), "0026"))
        vm = await add_vm(tx, await add_user(tx), name="old")
        volume = await add_volume(tx, await add_user(tx), name="old")
        before = [await terms_of(tx, row) for row in (vm, volume)]
        await tx.execute(text("DELETE FROM search_terms"))
    await migrate(settings)
    async with engine.connect() as connection:
        assert [await terms_of(connection, row) for row in (vm, volume)] == before


def test_a_search_for_too_many_words_leaves_out_the_terms_with_the_most() -> None:
    few, many = of_label("env", ["prod"]), of_label("k" * 63, map(str, range(700)))
    assert search_for("v", [few, many]) == search_for("v", [few])
    assert search_for("v", [many]) is None
    long = search_for("v", [few, *in_name(ascii_lowercase)])
    assert long
    assert long.terms.count(" & ") == MOST_TERMS - 1
    assert "env=prod" in long.terms
