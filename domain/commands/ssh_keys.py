"""Commands on the SSH keys of a user, and the keys that a new VM gets."""

from collections.abc import Iterable, Mapping

from sqlalchemy import ARRAY, Text, any_, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Requester
from domain.commands.new_vm import NewVM
from domain.data.accounts import User
from domain.data.guests import SSHKey
from domain.data.queries import insert_row
from domain.rules.errors import (
    FieldIssue,
    NameTakenError,
    NotFoundError,
    QuotaExceededError,
    UnknownReferenceError,
)
from domain.rules.ssh_keys import PublicKey

MOST_KEYS = 100  # of one user, as in Nova


async def add_ssh_key(tx: AsyncConnection, requester: Requester, name: str, key: PublicKey) -> SSHKey:
    """Keep a public key under a name; NameTakenError or QuotaExceededError if that cannot be."""
    # The lock makes two requests of one user count one after the other. It holds up nothing else.
    await tx.execute(select(User.id).where(User.id == requester.user_id).with_for_update(key_share=True))
    names = (await tx.scalars(select(SSHKey.name).where(SSHKey.owner_id == requester.user_id))).all()
    if name in names:
        raise NameTakenError("SSH key", name)
    if len(names) >= MOST_KEYS:
        raise QuotaExceededError("SSH keys", MOST_KEYS, len(names))
    row = {"type": key.type, "public_key": key.line, "fingerprint": key.fingerprint}
    return await insert_row(tx, SSHKey, owner_id=requester.user_id, name=name, **row)


async def delete_ssh_key(tx: AsyncConnection, requester: Requester, name: str) -> str:
    """Forget a key, and return its fingerprint. VMs that were created with it keep it."""
    is_it = (SSHKey.owner_id == requester.user_id, SSHKey.name == name)
    fingerprint: str | None = await tx.scalar(delete(SSHKey).where(*is_it).returning(SSHKey.fingerprint))
    if fingerprint is None:
        raise NotFoundError("SSH key", name)
    return fingerprint


async def public_keys(tx: AsyncConnection, requester: Requester, names: Iterable[str]) -> Mapping[str, str]:
    """The requester's keys with these names, by name. Those that do not exist are missing."""
    wanted = set(names)
    if not wanted:
        return {}
    of_requester = (SSHKey.owner_id == requester.user_id, SSHKey.name == any_(literal(sorted(wanted), ARRAY(Text))))
    found = await tx.execute(select(SSHKey.name, SSHKey.public_key).where(*of_requester))
    return {row.name: row.public_key for row in found}


def unknown_keys(new: NewVM, known: Mapping[str, str]) -> list[FieldIssue]:
    """The fields of a new VM that name a key which the requester does not have."""
    return [
        FieldIssue(
            f"{new.at}ssh_keys/{index}", UnknownReferenceError.code, f"You have no SSH key with the name {name}."
        )
        for index, name in enumerate(new.ssh_keys)
        if name not in known
    ]
