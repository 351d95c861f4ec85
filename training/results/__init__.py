"""The results of a run: tables, files, and their verification."""
