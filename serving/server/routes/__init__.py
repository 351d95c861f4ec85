"""The routes of a server: one file a form or a kind of question."""
