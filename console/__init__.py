"""What a terminal or a log shows: progress, tables, numbers."""
