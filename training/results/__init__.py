"""What a run found out: tables, files, and their verification."""
