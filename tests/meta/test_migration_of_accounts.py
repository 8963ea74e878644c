"""Migration 0006: accounts that were different before and equal by the new rules all keep working."""

import pytest
from alembic import command
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.accounts import User, user_named
from domain.data.queries import fetch_one, insert_row
from domain.settings import Settings
from migrations.__main__ import alembic_config, migrate
from tests.support.rows import add_user

EMAILS = {
    "first": "\u00c4NNA@navy.test",
    "second": "\u00e4nna@navy.test",
    "third": "a\u0308nna@NAVY.test",
    "unicode": "joe@m\u00fcnchen.test",
    "dns": "Joe@xn--mnchen-3ya.test",
    "plain": "Ann@navy.test",
    "odd": "x\u200b@not a domain \u00e9",
}
INSERT = "INSERT INTO users (id, username, email, password_hash) VALUES (gen_random_uuid(), :name, :email, 'none')"


def down(connection: Connection) -> None:
    """Go back to the schema before."""
    command.downgrade(alembic_config(connection), "0005")


async def test_accounts_with_equal_addresses_survive_and_new_ones_are_refused(
    settings: Settings, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        await tx.run_sync(down)
        for name, email in EMAILS.items():
            await tx.execute(text(INSERT), {"name": name, "email": email})
    await migrate(settings)
    async with engine.begin() as tx:
        emails = {row.username: row.email for row in await tx.execute(select(User.username, User.email))}
        assert emails == EMAILS
        for taken in ("\u00c4nna@Navy.test", "joe@M\u00dcNCHEN.test", "ANN@navy.test"):
            with pytest.raises(IntegrityError, match="uq_users_email"):
                async with tx.begin_nested():
                    await insert_row(tx, User, username="new", email=taken, password_hash="none")


async def test_an_address_with_other_letters_is_not_the_duplicate_of_itself(
    settings: Settings, engine: AsyncEngine
) -> None:
    """Its key and its lower case are the same text. Nobody may register the address again in another spelling."""
    async with engine.begin() as tx:
        await tx.run_sync(down)
        await tx.execute(text(INSERT), {"name": "first", "email": "m\u00fcller@navy.test"})
    await migrate(settings)
    async with engine.begin() as tx:
        with pytest.raises(IntegrityError, match="uq_users_email_key"):
            await insert_row(tx, User, username="new", email="mu\u0308ller@navy.test", password_hash="none")


async def test_usernames_that_only_a_locale_keeps_apart_are_both_found(settings: Settings, engine: AsyncEngine) -> None:
    """The lower case of I is not i in a Turkish database, so its index let both in."""
    async with engine.begin() as tx:
        await tx.run_sync(down)
        await tx.execute(text("DROP INDEX uq_users_username"))
        for name in ("ADMIN", "admin"):
            await tx.execute(text(INSERT), {"name": name, "email": f"{name.encode().hex()}@navy.test"})
    await migrate(settings)
    async with engine.begin() as tx:
        for typed, name in (("ADMIN", "ADMIN"), ("admin", "admin")):
            user = await fetch_one(tx, user_named(typed))
            assert user is not None
            assert user.username == name
        with pytest.raises(IntegrityError, match="uq_users_username_key"):
            async with tx.begin_nested():
                await add_user(tx, "aDMIN")


async def test_earlier_code_can_still_add_accounts(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(text(INSERT), {"name": "Old", "email": "Old@navy.test"})
        found = await fetch_one(tx, user_named("oLD"))
        assert found is not None
        with pytest.raises(IntegrityError, match="uq_users_email"):
            async with tx.begin_nested():
                await tx.execute(text(INSERT), {"name": "new", "email": "OLD@NAVY.TEST"})
