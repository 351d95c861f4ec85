"""Long work in chunks and processes, and the rows it writes."""
