"""Store checking: reads a whole store and compares it with its hashes, with progress."""

from pathlib import Path

from rich.console import Console

from console.progress import WorkProgress
from ranking.stores.format import StoreFormat, check_hashes

_MEGABYTE = 10**6


def verify(path: str | Path, format: StoreFormat, console: Console | None = None) -> None:
    """Read every shard of a store, and check that nothing has changed since it was written.

    Args:
        path: The folder of the store.
        format: The format of the store.
        console: Where to show progress; stderr by default.

    Raises:
        StoreError: If the store is missing, unfinished, of another format, or a file has changed; names the file.
    """
    records = [record for records in format.read_manifest(Path(path))["shards"].values() for record in records]
    total = sum(record["bytes"] for record in records) // _MEGABYTE
    read = 0
    with WorkProgress(total, console, doing="Verifying", done="Verified", unit="MB") as progress:

        def report(size: int) -> None:
            nonlocal read
            before, read = read // _MEGABYTE, read + size
            progress.report(read // _MEGABYTE - before)

        check_hashes(Path(path), records, report)
