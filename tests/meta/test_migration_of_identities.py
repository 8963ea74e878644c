"""Migration 0023: users of an identity provider beside those who registered, also for the version before."""

from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.commands import identities
from domain.commands.audit import Stranger
from domain.commands.identities import Subject
from migrations.__main__ import alembic_config
from tests.support.rows import add_user

BEFORE = "0022"


async def test_the_version_before_registers_users_in_the_new_schema(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        insert = "INSERT INTO users (id, username, email, password_hash) VALUES (gen_random_uuid(), :name, :email, 'x')"
        await tx.execute(text(insert), {"name": "ada", "email": "ada@example.com"})


async def test_a_downgrade_keeps_the_users_and_opens_none_of_their_accounts(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await add_user(tx, "ada")
        ids = [
            (await identities.find_or_add(tx, Subject("https://login.example.com", subject, "grace"), Stranger())).id
            for subject in ("1", "2")
        ]

        def down(connection: Connection) -> None:
            command.downgrade(alembic_config(connection), BEFORE)

        await tx.run_sync(down)
        rows = (await tx.execute(text("SELECT id, username, email, password_hash FROM users"))).all()
        assert len({row.email for row in rows}) == 3
        hashes = {row.password_hash for row in rows if row.id in ids}
        assert len(hashes) == 1
        assert not await security.verify_password("", hashes.pop())

        def up(connection: Connection) -> None:
            command.upgrade(alembic_config(connection), "head")

        await tx.run_sync(up)
