"""File forms: recognizes by their first bytes files that a reader cannot read."""

import re
from typing import NamedTuple


class FileForm(NamedTuple):
    """What a file is, and how to convert it to a readable file."""

    name: str
    cure: str


GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
HEAD = 4096
"""Number of first bytes that decide the form."""

_NO_DATA = "set the path to the data file"
_UNPACK = "unpack it, and set the path to the file in it"
_MAGIC = {
    b"version https://git-lfs": FileForm(
        "is a git-lfs pointer instead of the data", "run `git lfs pull` in that folder"
    ),
    GZIP: FileForm("is gzipped more than once", "unpack it once: gunzip FILE"),
    b"PK\x03\x04": FileForm("is a zip archive (an Excel workbook is one too)", _UNPACK + "; save a workbook as CSV"),
    b"\xfd7zXZ": FileForm("is compressed with xz", "unpack it: xz -d FILE"),
    b"BZh": FileForm("is compressed with bzip2", "unpack it: bunzip2 FILE"),
    b"\x28\xb5\x2f\xfd": FileForm("is compressed with zstd", "unpack it: zstd -d FILE"),
    b"\x04\x22\x4d\x18": FileForm("is compressed with lz4", "unpack it: lz4 -d FILE"),
    b"7z\xbc\xaf": FileForm("is a 7z archive", _UNPACK),
    b"Rar!": FileForm("is a rar archive", _UNPACK),
    PARQUET: FileForm("is a Parquet file", "rename it to *.parquet if the option accepts Parquet"),
    b"ARROW1": FileForm("is an Arrow file", "save it as Parquet or JSON lines"),
    b"\xff\xff\xff\xff": FileForm(
        "is an Arrow stream", "datasets.load_from_disk(FOLDER).to_json(FILE) makes JSON lines"
    ),
    b"\x93NUMPY": FileForm("is a NumPy array", "write ids and texts as JSON lines"),
    b"\x89HDF": FileForm("is an HDF5 file", "write its content as JSON lines"),
    b"SQLite format 3": FileForm("is an SQLite database", "write its tables as CSV or JSON lines"),
    b"%PDF": FileForm("is a PDF document", "give its text as JSON lines"),
    b"\xd0\xcf\x11\xe0": FileForm("is an old Office document", "save it as CSV"),
    b"\x7fELF": FileForm("is a program", _NO_DATA),
    b"\x89PNG": FileForm("is a PNG picture", _NO_DATA),
    b"\xff\xd8\xff": FileForm("is a JPEG picture", _NO_DATA),
    b"GIF89a": FileForm("is a GIF picture", _NO_DATA),
}
_UTF_16 = FileForm("is UTF-16 text", "make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW")
_UTF_32 = FileForm("is UTF-32 text", "make it UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW")
_PICKLE = FileForm("is a Python pickle, which is never opened: it can run code", "write its content as JSON lines")
_TAR = FileForm("is a tar archive", _UNPACK)
_BINARY = FileForm("is binary, not text", "set the path to the data file, or get it again; text has to be UTF-8")
_CONTROL = bytes({*range(1, 32)} - {*b"\t\n\f\r\x1b"})
"""Bytes that no text holds. A few NUL bytes in a text are reported with their lines."""
_HTML = FileForm("is a web page, not data", "get the file again: its address gave a page, maybe a login or an error")
_XML = FileForm("is XML", "write its content as JSON lines or TSV")
_MARKUP = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml|!doctype|top>|doc>|rss)", re.IGNORECASE)


def foreign_form(head: bytes) -> FileForm | None:
    """The form of a file that is not lines of UTF-8 text; None if it may be text.

    Args:
        head: The first bytes of the file, some hundreds if it has as many.
    """
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return _UTF_32
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or _alternates(head):
        return _UTF_16
    if re.match(rb"\x80[\x02-\x05]", head):
        return _PICKLE
    if head[257:262] == b"ustar":
        return _TAR
    if found := _MARKUP.match(head):
        return _HTML if found[1].lower() in (b"!doctype html", b"html", b"head", b"body") else _XML
    return _BINARY if head[:64].count(0) > 8 or _is_no_text(head) else None


def kind_of_lines(first: str) -> str:
    """What a file seems to be if its first line is not JSON."""
    if first.startswith('"'):
        return "JSON texts"
    if "\t" in first:
        return "TSV"
    if "," in first and not first.endswith("."):
        return "CSV"
    if len(first.split()) in (3, 4, 6) and len(first) < 200:
        return "TREC judgements or a run"
    return "plain text"


def _is_no_text(head: bytes) -> bool:
    """Whether bytes are neither UTF-8 nor, with so many control characters, text of another encoding."""
    num_control = len(head) - len(head.translate(None, _CONTROL))
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return num_control > 1 + len(head) / 50 and error.start < len(head) - 3
    return False


def _alternates(head: bytes) -> bool:
    """Whether every second byte is 0, as in UTF-16 without a byte order mark."""
    even, odd = head[0:200:2], head[1:200:2]
    return len(odd) >= 4 and any(
        zeros.count(0) > 0.9 * len(zeros) and others.count(0) == 0 for zeros, others in ((even, odd), (odd, even))
    )
