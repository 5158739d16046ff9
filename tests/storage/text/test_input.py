"""JSON Lines and CSV as the input of a partition: rows, types, what is damaged, what changed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mullama.errors import InputNotFoundError, InputUnreadableError, JobStoppedError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.hive import DataFormat
from airflow_mullama.storage.partition_input import PartitionInput, count_rows, open_partition
from airflow_mullama.storage.text import csv_rows, json_lines
from airflow_mullama.storage.text import format as text_format
from airflow_mullama.storage.text.input import open_text_input


def opened(*paths: Path) -> PartitionInput:
    return open_partition([local_location(str(path)) for path in paths])


def rows_of(source: PartitionInput, columns: list[str] | None = None, first_row: int = 0) -> list[dict[str, Any]]:
    return [row for batch in source.batches(columns, first_row=first_row) for row in batch.to_pylist()]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.gz", "a.ndjson.gz"])
def test_lines_of_json_are_rows(tmp_path: Path, name: str) -> None:
    content = '{"id": 1, "text": "é"}\n\n  \r\n{"text": null, "day": "2026-01-31"}\r\n{"id": 3, "tags": ["a"]}'
    source = opened(written(tmp_path / name, b"\xef\xbb\xbf" + content.encode()))
    assert source.rows == 3
    assert rows_of(source) == [
        {"id": 1, "text": "é", "day": None, "tags": None},
        {"id": None, "text": None, "day": "2026-01-31", "tags": None},
        {"id": 3, "text": None, "day": None, "tags": ["a"]},
    ]


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.csv.gz"])
def test_rows_of_csv_are_rows(tmp_path: Path, name: str) -> None:
    content = 'id,text,zip\r\n1,"é, ""x""\r\ny",01234\r\n\r\n2,,10115\r\n3,"",NA'
    source = opened(written(tmp_path / name, b"\xef\xbb\xbf" + content.encode()))
    assert source.rows == 3
    assert source.schema == pa.schema([("id", pa.int64()), ("text", pa.string()), ("zip", pa.string())])
    assert rows_of(source) == [
        {"id": 1, "text": 'é, "x"\r\ny', "zip": "01234"},
        {"id": 2, "text": None, "zip": "10115"},
        {"id": 3, "text": "", "zip": "NA"},
    ]


def test_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n'))
    assert rows_of(opened(path)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_a_packed_file_that_was_cut_off_is_an_error(tmp_path: Path, name: str) -> None:
    lines = "".join(f'{{"a": {number * 7919 % 1009}}}\n' for number in range(5000))
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines.encode())[:-200])
    with pytest.raises(InputUnreadableError, match=r"is not a readable (JSON Lines|CSV) file: .*runcated"):
        opened(path)


def test_a_damaged_line_is_a_row_of_nulls_and_its_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"a": 1}\n{"a": \n\nnull\n{"a": 4}\n')
    source = opened(path)
    assert rows_of(source) == [{"a": 1}, {"a": None}, {"a": None}, {"a": 4}]
    assert source.unreadable_rows == {
        1: "line 2 is not JSON: Expecting value at character 8",
        2: "line 4 holds no JSON object",
    }
    assert rows_of(source, ["a"], first_row=2) == [{"a": None}, {"a": 4}]


def test_a_damaged_row_of_csv_is_a_row_of_nulls_and_its_reason(tmp_path: Path) -> None:
    content = b'a,b\n1,"x\ny"\n2\n\n3,z,4\n4,\xff\n5,w\n6\n'
    source = opened(written(tmp_path / "a.csv", content))
    assert source.unreadable_rows == {
        1: "row 2 has 1 field and the header has 2",
        2: "row 3 has 3 fields and the header has 2",
        3: "row 4 is not UTF-8",
        5: "row 6 has 1 field and the header has 2",
    }
    assert [row["a"] for row in rows_of(source)] == [1, None, None, None, 5, None]
    for first in range(7):
        assert [row["a"] for row in rows_of(source, ["a"], first)] == [1, None, None, None, 5, None][first:]


def test_damaged_rows_of_several_files_have_their_place_in_the_partition(tmp_path: Path) -> None:
    first = written(tmp_path / "a.csv", b"a,b\n1,2\n3\n")
    second = written(tmp_path / "b.csv.gz", b"b,c\n5\n6,x\n")
    source = opened(first, second)
    assert source.unreadable_rows == {
        1: "a.csv: row 2 has 1 field and the header has 2",
        2: "b.csv.gz: row 1 has 1 field and the header has 2",
    }
    assert rows_of(source)[0] == {"a": 1, "b": 2, "c": None}
    assert rows_of(source)[3] == {"a": None, "b": 6, "c": "x"}
    assert rows_of(source, ["c"]) == [{"c": None}, {"c": None}, {"c": None}, {"c": "x"}]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_of_nothing_but_damage_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, b"a,b\n" + b"x\n" * (text_format.MOST_UNREADABLE_ROWS + 1))
    with pytest.raises(InputUnreadableError, match=r"more than 1000 rows that cannot be read, .* the first: "):
        opened(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b'a,b\n1,"x\n2,y\n3,z\n', "a quote is opened and not closed"),
        ("a.csv", b'a,b\n"1,x\n2,y\n', "a quote is opened and not closed"),
        ("a.csv", b"", "is not a readable CSV file: "),
        ("a.csv", b"a,b,a\n1,2,3\n", "has several columns named 'a'"),
        ("a.jsonl", b"", "holds no row with a column"),
        ("a.jsonl", b"{}\n", "holds no row with a column"),
        ("a.jsonl", b"oops\n", "holds no row with a column.*; line 1 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', "column 'a' holds an integer in line 1 and a string in line 2"),
        ("a.jsonl", b'{"a": {}}\n', "column 'a' holds only empty objects"),
    ],
)
def test_what_is_no_table_is_one_clear_error(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(InputUnreadableError, match=sentence):
        opened(written(tmp_path / name, content))


def test_a_contradiction_between_files_names_both(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", b'{"b": 0}\n{"a": 1}\n')
    second = written(tmp_path / "b.jsonl", b'{"a": "x"}\n')
    sentence = r"b\.jsonl', column 'a' holds an integer in line 2 of 'a\.jsonl' and a string in line 1\."
    with pytest.raises(InputUnreadableError, match=sentence):
        opened(first, second)


def test_headers_of_csv_may_differ_unless_they_are_not_to(tmp_path: Path) -> None:
    paths = [written(tmp_path / "a.csv", b"a,b\n1,2\n"), written(tmp_path / "b.csv", b"b,c\n3,x\n")]
    assert opened(*paths).promotions == (
        "'a' is null where it is absent, in 1 of 2 files",
        "'c' is null where it is absent, in 1 of 2 files",
    )
    assert opened(paths[0]).promotions == ()
    with pytest.raises(InputUnreadableError, match=r"'a.csv' and 'b.csv'.*different headers and schema_drift='refuse'"):
        open_text_input([local_location(str(path)) for path in paths], DataFormat.CSV, schema_drift="refuse")


@pytest.mark.parametrize(("name", "format_"), [("a.csv", DataFormat.CSV), ("a.jsonl", DataFormat.JSON_LINES)])
def test_the_first_reading_can_be_stopped(tmp_path: Path, name: str, format_: DataFormat) -> None:
    rows = ('{"a": 1}' if name.endswith("jsonl") else "1") + "\n"
    path = written(tmp_path / name, ("a\n" * (format_ is DataFormat.CSV) + rows * 1000).encode())
    asked = []

    def check_stopped() -> None:
        asked.append(1)
        raise JobStoppedError("enough")

    with pytest.raises(JobStoppedError, match="enough"):
        open_text_input([local_location(str(path))], format_, check_stopped=check_stopped)
    assert len(asked) == 1


def test_a_closed_quote_at_the_end_may_hold_a_line_break(tmp_path: Path) -> None:
    assert rows_of(opened(written(tmp_path / "a.csv", b'a,b\n1,"x\n"\n'))) == [{"a": 1, "b": "x\n"}]


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    source = opened(written(tmp_path / "a.csv", b"a,b"))
    assert (source.rows, source.schema.names, rows_of(source)) == (0, ["a", "b"], [])


def test_a_row_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (json_lines, csv_rows):
        monkeypatch.setattr(module, "LARGEST_ROW_BYTES", 1 << 16)
    lines = json.dumps({"a": "x" * (1 << 18)}) + '\n{"a": "y"}\n'
    source = opened(written(tmp_path / "a.jsonl", lines.encode()))
    assert rows_of(source) == [{"a": None}, {"a": "y"}]
    assert list(source.unreadable_rows) == [0]
    with pytest.raises(InputUnreadableError, match="or a row is larger than"):
        opened(written(tmp_path / "a.csv", b"a,b\n" + b"x" * (1 << 18) + b",y\n"))


def test_batches_have_a_bound_and_begin_at_any_row(tmp_path: Path) -> None:
    lines = "".join(f'{{"id": {number}, "text": "{"x" * (number % 9)}"}}\n' for number in range(10_000))
    table = "id,text\n" + "".join(f"{number},{'x' * (number % 9)}\n" for number in range(10_000))
    for source in (
        opened(written(tmp_path / "a.jsonl", lines.encode())),
        opened(written(tmp_path / "a.csv", table.encode())),
    ):
        assert max(batch.num_rows for batch in source.batches()) == 4096
        for first in (0, 1, 4095, 4096, 9999, 10_000):
            assert [row["id"] for row in rows_of(source, ["id"], first)] == list(range(first, 10_000))
        assert sum(batch.num_rows for batch in source.batches([])) == 10_000


def test_heavy_rows_come_in_smaller_batches(tmp_path: Path) -> None:
    line = json.dumps({"text": "x" * (1 << 20)}) + "\n"
    source = opened(written(tmp_path / "a.jsonl", line.encode() * 10))
    assert [batch.num_rows for batch in source.batches()] == [4, 4, 2]


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"a\n1\n")
    first = opened(path).identity
    written(path, b"a\n2\n")
    assert opened(path).identity != first
    written(path, b"a\n1\n")
    assert opened(path).identity == first


def test_a_file_that_changes_unseen_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    for name, before, after in (("a.csv", b"a\n1\n", b"a\n2\n"), ("a.jsonl", b'{"a": 1}\n', b'{"a": 2}\n')):
        source = opened(written(tmp_path / name, before))
        written(tmp_path / name, after)
        with pytest.raises(InputUnreadableError, match="its content changed while it was read"):
            rows_of(source)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"a\.csv' is not there"):
        opened(tmp_path / "a.csv")


def test_rows_are_counted_whatever_the_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "a.parquet")
    written(tmp_path / "a.csv", b'a,b\n1,"\n"\n2\n')
    written(tmp_path / "a.jsonl", b'{"a": 1}\n\n{}\n')
    counted = [count_rows([local_location(str(tmp_path / f"a.{end}"))]) for end in ("parquet", "csv", "jsonl")]
    assert counted == [3, 2, 2]


def test_formats_that_are_mixed_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadableError, match=r"several formats, 'a.csv' \(CSV\) and 'b.jsonl' \(JSON Lines\)"):
        opened(tmp_path / "a.csv", tmp_path / "b.jsonl")


FIELD = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8),
    st.sampled_from(["", "007", "1.50", "-3", "12345678901234567890", "true", "NA", '"', ",", "a\nb"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=12))
def test_every_row_of_csv_is_the_one_that_duckdb_reads(rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "a.csv"), text.getvalue().encode())
        theirs = (
            duckdb.connect()
            .execute(
                f"FROM read_csv('{path}', header=true, all_varchar=true, delim=',', quote='\"', escape='\"', "
                "new_line='\\r\\n', allow_quoted_nulls=false)"
            )
            .fetchall()
        )
        source = opened(path)
        ours = [tuple(row.values()) for row in rows_of(source)]
    assert len(theirs) == len(ours) == source.rows == len(rows)
    for position, type_ in enumerate(source.schema.types):
        read = [row[position] for row in theirs]
        if type_ == pa.string():
            assert [row[position] for row in ours] == read
        else:
            assert [row[position] for row in ours] == pa.array(read, pa.string()).cast(type_).to_pylist()


LINE = st.one_of(
    st.fixed_dictionaries({}, optional={"i": st.integers(-(2**63), 2**63 - 1), "s": st.text(max_size=6)}).map(
        json.dumps
    ),
    st.fixed_dictionaries({}, optional={"f": st.floats(allow_nan=False, allow_infinity=False)}).map(json.dumps),
    st.fixed_dictionaries({}, optional={"l": st.lists(st.one_of(st.none(), st.booleans()), max_size=3)}).map(
        json.dumps
    ),
    st.sampled_from(["null", "[1]", '{"i": ', "{}{}", '{"s": "\\ud800"}', "oops", '{"i": 1,}']),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, max_size=12))
def test_every_line_of_json_is_one_row_and_those_that_are_sound_keep_their_values(lines: list[str]) -> None:
    content = "\n".join(['{"i": 0}', *lines])
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "a.jsonl"), content.encode())
        source = opened(path)
        ours = rows_of(source)
        # Only counted: DuckDB takes other lines for damaged, and rounds.
        columns = "{'line': 'VARCHAR'}"
        query = f"SELECT count(*) FROM read_csv('{path}', columns={columns}, delim='\x01', quote='', header=false)"
        assert duckdb.connect().execute(query).fetchall() == [(len(ours),)]
    assert source.rows == len(ours) == len(lines) + 1
    for position, line in enumerate(lines, 1):
        if position in source.unreadable_rows:
            assert all(value is None for value in ours[position].values())
        else:
            held = json.loads(line)
            assert ours[position] == {name: held.get(name) for name in source.schema.names}
