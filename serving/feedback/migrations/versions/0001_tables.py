"""The first tables: users, feedback, heads and versions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "users",
        sa.Column("ranker", sa.Text, primary_key=True),
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("num_feedback", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "feedback",
        sa.Column("ranker", sa.Text, primary_key=True),
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_index("feedback_key", "feedback", ["ranker", "user", "key"], unique=True)
    op.create_table(
        "heads",
        sa.Column("ranker", sa.Text, primary_key=True),
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("base", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(32)),
        sa.Column("num_versions", sa.Integer, nullable=False),
        sa.Column("num_learnt", sa.Integer, nullable=False),
        sa.Column("token", sa.String(32)),
        sa.Column("leased_until", sa.Double, nullable=False),
        sa.Column("last", sa.Text),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("ranker", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("base", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("weights", sa.LargeBinary, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_index("versions_number", "versions", ["ranker", "user", "base", "number"], unique=True)


def downgrade() -> None:
    """Drop the tables, with all that users said."""
    for name in ("versions", "heads", "feedback", "users"):
        op.drop_table(name)
