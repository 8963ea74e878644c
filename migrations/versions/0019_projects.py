"""Add projects and their members. Each user gets a personal project with all that is the user's.

Its id is the id of the user. So `owner_id` of the resources, which was the user's id, is the project's id now, and no
row is rewritten. Earlier code keeps working: it writes and compares the user's id, which is the personal project's, and
a trigger makes the project of a user that it registers.

The foreign keys are checked for new rows only until migration 0020 has validated them, which takes long in a large
table and must not be done under the locks of this migration.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

TABLES = ("vms", "volumes", "snapshots", "operations")


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("personal_of", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.CheckConstraint("personal_of IS NULL OR personal_of = id", name=op.f("ck_projects_personal")),
        sa.ForeignKeyConstraint(
            ["personal_of"], ["users.id"], name=op.f("fk_projects_personal_of"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_projects_created_by"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
    )
    op.create_table(
        "project_members",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('operator', 'owner', 'reader')", name=op.f("ck_project_members_role")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_project_members_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_project_members_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_project_members")),
    )
    is_deleted = sa.text("deleted_at IS NOT NULL")
    is_created = sa.text("created_by IS NOT NULL")
    op.create_index("ix_projects_created_by", "projects", ["created_by"], postgresql_where=is_created)
    op.create_index("ix_projects_deleted", "projects", ["deleted_at", "id"], postgresql_where=is_deleted)
    op.create_index("ix_project_members_user", "project_members", ["user_id", "project_id"])
    op.execute(
        """
        CREATE FUNCTION make_personal_project() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO projects (id, name, personal_of) VALUES (NEW.id, NEW.username, NEW.id);
            INSERT INTO project_members (project_id, user_id, role) VALUES (NEW.id, NEW.id, 'owner');
            RETURN NULL;
        END
        $$
        """
    )
    # The trigger comes first: its lock keeps out users that are registered meanwhile.
    op.execute(
        "CREATE TRIGGER make_personal_project AFTER INSERT ON users "
        "FOR EACH ROW EXECUTE FUNCTION make_personal_project()"
    )
    op.execute(
        "INSERT INTO projects (id, name, personal_of, created_at) SELECT id, username, id, created_at FROM users"
    )
    op.execute(
        "INSERT INTO project_members (project_id, user_id, role, created_at) "
        "SELECT id, id, 'owner', created_at FROM users"
    )
    for table in TABLES:
        op.drop_constraint(f"fk_{table}_owner_id", table)
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_owner_id FOREIGN KEY (owner_id) REFERENCES projects (id) "
            "NOT VALID"
        )


def downgrade() -> None:
    """Revert the change. It fails if a project that is nobody's own has resources: nobody would own them."""
    for table in reversed(TABLES):
        op.drop_constraint(f"fk_{table}_owner_id", table)
        op.create_foreign_key(f"fk_{table}_owner_id", table, "users", ["owner_id"], ["id"])
    op.execute("DROP TRIGGER make_personal_project ON users")
    op.execute("DROP FUNCTION make_personal_project()")
    op.drop_table("project_members")
    op.drop_table("projects")
