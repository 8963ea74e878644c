"""The tables of what a new VM may ask for beside its size, image and networks; a part of the catalogue."""

from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from domain.data.base import Base, Offered


class SecurityGroup(Offered, Base):
    """A set of rules that says which packets reach a VM. In a cloud, several may have one name."""

    __tablename__ = "security_groups"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]


class AvailabilityZone(Offered, Base):
    """A part of the cloud that fails by itself. The cloud knows it by its name; the id is derived from that."""

    __tablename__ = "availability_zones"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
