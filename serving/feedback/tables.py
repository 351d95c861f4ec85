"""Tables of the feedback database, as the newest migration leaves them.

A user is a text of the client's. All that is kept of users is in these tables, each row under its ranker and user.
"""

from sqlalchemy import Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("ranker", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("num_feedback", Integer, nullable=False),
    Column("created", Double, nullable=False),
)
"""Who has given feedback to which ranker. Its row is locked while feedback of the user is added."""

feedback = Table(
    "feedback",
    metadata,
    Column("ranker", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key", Text),
    Column("content", Text, nullable=False),
    Column("created", Double, nullable=False),
    Index("feedback_key", "ranker", "user", "key", unique=True),
)
"""What users said: `number` counts from 1 for each user, `content` is JSON in ASCII, `key` the idempotency key."""

heads = Table(
    "heads",
    metadata,
    Column("ranker", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("base", String(64), primary_key=True),
    Column("version", String(32)),
    Column("num_versions", Integer, nullable=False),
    Column("num_learnt", Integer, nullable=False),
    Column("token", String(32)),
    Column("leased_until", Double, nullable=False),
    Column("last", Text),
)
"""The head of a user over one base: which version is in use (null for the base itself), how much feedback has been
learnt from, who is training it and until when, and what came of the last training, as JSON."""

versions = Table(
    "versions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ranker", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("base", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("weights", LargeBinary, nullable=False),
    Column("report", Text, nullable=False),
    Column("created", Double, nullable=False),
    Index("versions_number", "ranker", "user", "base", "number", unique=True),
)
"""The versions of heads: `weights` is what `PersonalRankers.difference` returns, `id` is never used again."""
