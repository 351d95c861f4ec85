"""The steps from one form of the feedback database to the next, run by Alembic when a server starts."""
