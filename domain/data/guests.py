"""The tables of what guests get and say: SSH keys, user data, and what their consoles have answered.

User data may hold secrets, and an answer of a console, too. So they have tables of their own, which no list reads.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base


class SSHKey(Base):
    """A user's public key, which VMs get at their creation; `public_key` is a line of `authorized_keys`."""

    __tablename__ = "ssh_keys"

    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    public_key: Mapped[str]
    fingerprint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UserData(Base):
    """What cloud-init gets in a VM, SSH keys included. It is deleted when the VM is DELETED."""

    __tablename__ = "user_data"

    # An earlier version deletes a VM without knowing of this row.
    vm_id: Mapped[UUID] = mapped_column(ForeignKey("vms.id", ondelete="CASCADE"), primary_key=True)
    content: Mapped[bytes]


class ConsoleAnswer(Base):
    """What a worker has read from a console for a request that waits for it, as JSON; the request deletes it."""

    __tablename__ = "console_answers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    content: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
