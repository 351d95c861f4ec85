"""Text files are read where they are, and each bad line is named."""

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from features.reading.fields import LineError
from features.reading.lines import TextFile, find_file, number
from registry import ConfigError

CONTENT = b"1\tone\n2\ttwo\n"


def put(folder: Path, form: str) -> Path:
    """`numbers.tsv` in one of the forms that data sets come in."""
    if form == "plain":
        (folder / "numbers.tsv").write_bytes(CONTENT)
    elif form == "gz":
        (folder / "numbers.tsv.gz").write_bytes(gzip.compress(CONTENT))
    elif form == "zip":
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            archive.writestr("data/README", "read me")
            archive.writestr("data/numbers.tsv", CONTENT)
    else:
        with tarfile.open(folder / "data.tar.gz", "w:gz") as archive:
            for name, content in (("./README", b"read me"), ("./numbers.tsv", CONTENT)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder / "data.zip" if form == "zip" else folder


@pytest.mark.parametrize("form", ["plain", "gz", "zip", "tar"])
def test_a_file_is_found_and_read_in_any_form(tmp_path: Path, form: str) -> None:
    file = find_file(put(tmp_path, form), "numbers.tsv", ["other.tar.gz", "data.tar.gz"])
    assert file is not None
    assert list(file.lines()) == [b"1\tone", b"2\ttwo"]
    assert list(file.lines()) == [b"1\tone", b"2\ttwo"]
    assert len(file.fingerprint["sha256"]) == 64


@pytest.mark.parametrize("form", ["plain", "zip"])
def test_a_file_that_is_not_there_is_not_found(tmp_path: Path, form: str) -> None:
    assert find_file(put(tmp_path, form), "letters.tsv") is None


def test_a_damaged_zip_archive_is_no_folder(tmp_path: Path) -> None:
    archive = put(tmp_path, "zip")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"data\.zip: cannot be read as an archive \("):
        find_file(archive, "numbers.tsv")


def test_an_archive_without_the_member_says_so(tmp_path: Path) -> None:
    put(tmp_path, "tar")
    with pytest.raises(ConfigError, match=r"there is no letters\.tsv in it"):
        list(TextFile(tmp_path / "data.tar.gz", "letters.tsv").lines())


@pytest.mark.parametrize(("name", "member"), [("a.tsv.gz", ""), ("a.zip", "a.tsv"), ("a.tar.gz", "a.tsv")])
def test_a_damaged_file_says_how_far_it_could_be_read(tmp_path: Path, name: str, member: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(CONTENT * 5000)[:-20])
    with pytest.raises(ConfigError, match=r"(after line \d+|a\.tsv): is damaged \("):
        list(TextFile(tmp_path / name, member).lines())


def test_rows_hold_the_wanted_columns_in_the_wanted_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        '\ufeffid,title,genres\r\n1,"Postman, The ""Il""",Drama\r\n\r\n2,Heat,\r\n'.encode()
    )
    rows = TextFile(tmp_path / "a.csv").rows(",", ("title", "id"), lambda *values: values)
    assert list(rows) == [('Postman, The "Il"', "1"), ("Heat", "2")]


def test_types_in_a_header_are_no_part_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\n3\t4\n")
    assert list(TextFile(tmp_path / "a.inter").rows("\t", ("item_id",), str)) == ["4"]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,titel\n1,Heat\n")
    with pytest.raises(ConfigError) as error:
        list(TextFile(tmp_path / "a.csv").rows(",", ("title",), str))
    assert (
        str(error.value).removeprefix(f"{tmp_path}/")
        == "a.csv: has no column 'title'.\n  Did you mean: titel\n  Known:        id, titel"
    )


def test_every_bad_line_is_named_after_the_good_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"1\t2.5\n2\n3\tmany\n4\t\xff\n5\t1e3\n")
    rows = TextFile(tmp_path / "a.tsv").rows("\t", ("x",), lambda x: number("x", x), ("id", "x"))
    assert [next(rows), next(rows)] == [2.5, 1000.0]
    with pytest.raises(ConfigError) as error:
        next(rows)
    assert "3 lines cannot be read:" in str(error.value)
    assert "line 2: has 1 fields, expected 2: id, x" in str(error.value)
    assert "line 3: x: found 'many', expected a number" in str(error.value)
    assert "line 4: not UTF-8: byte 0xff at 2" in str(error.value)


def test_no_more_than_twenty_different_faults_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"{'x' * size}\n" for size in range(1, 31)))

    def refuse(line: str) -> str:
        raise LineError("", f"{line} is no good")

    with pytest.raises(ConfigError, match=r"20 lines, and maybe more, cannot be read") as error:
        list(TextFile(tmp_path / "a.tsv").parsed(refuse))
    assert f"line 20: {'x' * 20} is no good" in str(error.value) and "line 21" not in str(error.value)


FOREIGN = {
    "UTF-16": ("id\ttext\n".encode("utf-16"), "UTF-16 text"),
    "UTF-16 without its mark": ("id\ttext\n".encode("utf-16-le"), "UTF-16 text"),
    "UTF-32": ("id\ttext\n".encode("utf-32"), "UTF-32 text"),
    "a web page": (b"\n<!DOCTYPE html>\n<html><body>404", "web page"),
    "XML": (b"<?xml version='1.0'?>", "XML"),
    "TREC's topics": (b"<top>\n<num> Number: 301", "XML"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(30), "zip archive"),
    "xz": (b"\xfd7zXZ\x00", "xz -d"),
    "bzip2": (b"BZh91AY", "bunzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd -d"),
    "tar": (b"a.tsv".ljust(257, b"\0") + b"ustar", "tar archive"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"a\tb\n")), "gzipped more than once"),
    "Parquet": (b"PAR1" + bytes(30), "Parquet file"),
    "Arrow": (b"\xff\xff\xff\xff" + bytes(30), "Arrow stream"),
    "a pickle": (b"\x80\x04\x95", "Python pickle"),
    "zeros after a crash": (bytes(100), "is binary, not text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(9), "PNG picture"),
    "random bytes": (random.Random(0).randbytes(3000).replace(b"\0", b"\1"), "is binary, not text"),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_a_file_that_is_not_text_is_named_with_what_to_do(tmp_path: Path, form: str) -> None:
    content, problem = FOREIGN[form]
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as error:
        list(TextFile(tmp_path / "a.tsv").lines())
    assert "What to do:" in str(error.value) and str(error.value).startswith(str(tmp_path / "a.tsv"))


@pytest.mark.parametrize(
    "text", ["é" * 2048 + "a", "x" + "é" * 4000, "\x1b[1mbold\x1b[0m \x01 é, à"], ids=["fits", "cut", "few"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_text_is_not_taken_for_binary(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.tsv").write_bytes(f"{text}\n".encode(encoding))
    assert list(TextFile(tmp_path / "a.tsv").lines()) == [text.encode(encoding)]


def test_a_file_that_is_damaged_from_its_start_names_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"a" * 99)[:8])
    with pytest.raises(ConfigError) as error:
        list(TextFile(tmp_path / "a.jsonl.gz").lines())
    assert str(error.value).startswith(f"{tmp_path / 'a.jsonl.gz'}: is damaged (")


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("content", [CONTENT, gzip.compress(CONTENT)], ids=["plain", "gzipped"])
def test_the_first_bytes_decide_whether_a_file_is_gzipped(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(TextFile(tmp_path / name).lines()) == [b"1\tone", b"2\ttwo"]


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("-2.5", -2.5), ("+1e3", 1000), (".5", 0.5), (" 3. ", 3)])
def test_a_number_is_written_in_digits(text: str, value: float) -> None:
    assert number("x", text) == value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("nan", "a finite number"), ("-Inf", "a finite number"), ("1e999", "a finite number"), ("1_0", "a number")]
    + [(each, "a number") for each in ("", " ", "0x1", "1,5", "\u0661", "1 2", "--1", "e3", "½")],
)
def test_what_is_no_number_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(LineError, match=rf"x: found .*, expected {wanted}$"):
        number("x", text)


def test_an_older_encoding_is_read_where_lines_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes("Misérables\n".encode("latin-1") + "Amélie\n".encode())
    assert list(TextFile(tmp_path / "a.dat", encoding="latin-1").parsed(str)) == ["Misérables", "Amélie"]


def test_blank_lines_are_no_rows_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\n\n  \t\ntwo\n\xff\n")
    assert [number for number, _ in TextFile(path).numbered()] == [1, 4, 5]
    assert [number for number, _ in TextFile(path).numbered(3)] == [4, 5]
    assert [number for number, _ in TextFile(path).numbered(blank=True)] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="one line cannot be read:\n  line 5: not UTF-8"):
        list(TextFile(path).parsed(str))
