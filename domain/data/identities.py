"""The table of users whom an identity provider names."""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ForeignKey, Index, func, select
from sqlalchemy.orm import Mapped, mapped_column

from domain.data.accounts import User
from domain.data.base import Base


class Identity(Base):
    """The user who is `subject` to the provider `issuer`. Names do not matter: both sides may give one to another user.

    Rows are as many as users, and stay as long.
    """

    __tablename__ = "identities"
    __table_args__ = (Index("uq_identities_user_id", "user_id", unique=True),)

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


IS_OF_PROVIDER: Final = select(Identity.user_id).where(Identity.user_id == User.id).exists()
"""Whether a row of users is of somebody whom an identity provider names."""
