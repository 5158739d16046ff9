from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama import ClassifyJob, GenerateJob
from airflow_mullama.byte_bounds import LARGEST_ROW_BYTES, MIB
from airflow_mullama.engines.pictures import MOST_PICTURES, Picture, read_picture
from airflow_mullama.errors import ConfigurationError, MissingColumnError, UnsupportedColumnError
from airflow_mullama.jobs.pictures import ROWS_READ_TOGETHER, PictureTemplate
from airflow_mullama.jobs.prompts import (
    PicturePath,
    PromptTemplate,
    RequestText,
    beginning_of,
    pictures_of,
    request_digest,
)
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.storage.picture_files import Unread
from tests.made_pictures import BLUE, GREEN, RED, png, png_of

A, B = png(RED), png(GREEN)
DESCRIBE = PromptTemplate.parse("Describe it.")


@dataclass
class Files:
    """Files in memory."""

    content: dict[str, bytes | Unread]
    sizes_of: dict[str, int] = field(default_factory=dict)
    was_read: list[str] = field(default_factory=list)
    was_looked_at: list[list[str]] = field(default_factory=list)

    def sizes(self, paths: Sequence[str]) -> list[int]:
        self.was_looked_at.append(list(paths))
        return [
            self.sizes_of.get(path, len(one) if isinstance(one := self.content[path], bytes) else 0) for path in paths
        ]

    def read(self, paths: Sequence[str]) -> list[bytes | Unread]:
        self.was_read += paths
        return [self.content[path] for path in paths]


def rendered(
    column: pa.Array, files: Files | None = None, template: PromptTemplate = DESCRIBE, **more: Any
) -> list[str | RowError]:
    batch = pa.RecordBatch.from_pydict({"photo": column, **more})
    made = PictureTemplate(template, ("photo",), files=files)
    made.require_columns(batch.schema.names)
    made.require_types(batch.schema)
    return made.render(batch)


def contents(texts: Sequence[str | RowError]) -> list[list[bytes] | None]:
    return [
        None if isinstance(text, RowError) else [one.data for one in pictures_of(text) if isinstance(one, Picture)]
        for text in texts
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(len(A))])
def test_bytes_are_pictures(kind: pa.DataType) -> None:
    (text,) = texts = rendered(pa.array([A], kind))
    assert contents(texts) == [[A]]
    assert text == RequestText("Describe it.", (), None, (read_picture(A),))


def test_so_are_lists_of_them_and_dictionaries_and_what_the_library_datasets_writes() -> None:
    assert contents(rendered(pa.array([[A, None, B], [B]]))) == [[A, B], [B]]
    assert contents(rendered(pa.array([A, B, A]).dictionary_encode())) == [[A], [B], [A]]
    structs = pa.array([{"bytes": A, "path": "x.png"}, {"bytes": None, "path": "b"}])
    assert contents(rendered(structs, Files({"b": B}))) == [[A], [B]]
    assert contents(rendered(pa.array([[{"bytes": A}]]))) == [[A]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_texts_are_paths(kind: pa.DataType) -> None:
    files = Files({"a": A, "b": B})
    assert contents(rendered(pa.array(["a", "b", "a"], kind), files)) == [[A], [B], [A]]
    assert files.was_read == ["a", "b"]
    assert contents(rendered(pa.array([["a", "b"]], pa.list_(kind)), files)) == [[A, B]]


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.list_(pa.int64()), pa.struct([("path", pa.string())]), pa.map_(pa.string(), pa.binary())]
)
def test_a_column_of_another_type_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedColumnError, match=r"The column 'photo' of 'in' is of the type .*must be binary"):
        PictureTemplate(DESCRIBE, ("photo",)).require_types(pa.schema([("photo", kind)]), "in")
    with pytest.raises(MissingColumnError, match="'photo'"):
        PictureTemplate(DESCRIBE, ("photo",)).require_columns(["text"])


def test_a_row_without_any_picture_is_skipped() -> None:
    null, empty, found = rendered(pa.array([None, [], [A]], pa.list_(pa.binary())))
    assert null == RowError(ErrorType.NULL_INPUT, "no picture: column 'photo' is null or an empty list")
    assert empty == null
    assert not isinstance(found, RowError)
    batch = pa.RecordBatch.from_pydict({"a": pa.array([A, None, None]), "b": pa.array([B, B, None], pa.binary())})
    both = PictureTemplate(DESCRIBE, ("a", "b")).render(batch)
    assert contents(both) == [[A, B], [B], None]


def test_a_rows_text_says_first_what_is_wrong_with_it() -> None:
    texts = rendered(pa.array([b"x", A]), template=PromptTemplate.of_column("text"), text=pa.array([None, "hi"]))
    assert isinstance(texts[0], RowError)
    assert texts[0].message == "column 'text' is null"
    assert texts[1] == RequestText("hi", (0, 2), None, (read_picture(A),))


def test_what_is_no_picture_is_that_rows_error() -> None:
    files = Files(
        {"gone": Unread("is not there", may_pass=True), "out": Unread("leads out", may_pass=False), "z": b"z"}
    )
    found = rendered(pa.array(["gone", "out", "z"]), files)
    assert found == [
        RowError(ErrorType.MISSING_IMAGE, "column 'photo': 'gone' is not there"),
        RowError(ErrorType.UNREADABLE_IMAGE, "column 'photo': 'out' leads out"),
        RowError(ErrorType.UNREADABLE_IMAGE, "column 'photo': 'z' is no PNG, JPEG or WebP: it begins with 7a"),
    ]
    broken, sound = rendered(pa.array([b"GIF89a", A]))
    assert isinstance(broken, RowError)
    assert broken.message == "column 'photo' is no PNG, JPEG or WebP: it begins with 47 49 46 38 39 61"
    assert contents([sound]) == [[A]]


def test_a_path_that_is_not_utf_8_is_that_rows_error() -> None:
    column = pa.array([b"\xff", b"a"]).view(pa.string())
    bad, good = rendered(column, Files({"a": A}))
    assert isinstance(bad, RowError)
    assert bad.error_type is ErrorType.UNREADABLE_IMAGE
    assert "not UTF-8" in bad.message
    assert contents([good]) == [[A]]


def test_a_row_has_a_bound_in_pictures_and_in_bytes() -> None:
    most, more = rendered(pa.array([[A] * MOST_PICTURES, [A] * (MOST_PICTURES + 1)]))
    assert not isinstance(most, RowError)
    assert more == RowError(ErrorType.UNREADABLE_IMAGE, "the row has 17 pictures, and 16 are the most")
    heavy = Files({"a": A, "b": B}, sizes_of={"a": LARGEST_ROW_BYTES, "b": 1})
    light, refused = rendered(pa.array([["b"], ["a", "b"]]), heavy)
    assert not isinstance(light, RowError)
    assert isinstance(refused, RowError)
    assert refused.error_type is ErrorType.ROW_TOO_LARGE
    assert heavy.was_read == ["b"]  # what is too heavy is not even read


def test_files_of_many_rows_are_not_read_together() -> None:
    files = Files({"a": A}, sizes_of={"a": 5 * MIB})
    template = PictureTemplate(DESCRIBE, ("photo",), files=files)
    batch = pa.RecordBatch.from_pydict({"photo": ["a"] * 100})
    assert template.rows_at_once(batch) == 3
    assert replace(template, files=Files({"a": A}, sizes_of={"a": 50 * MIB})).rows_at_once(batch) == 1
    assert replace(template, files=Files({"a": A})).rows_at_once(batch) == ROWS_READ_TOGETHER
    assert replace(template, files=None).rows_at_once(batch) == 100
    assert template.rows_at_once(pa.RecordBatch.from_pydict({"photo": [A] * 100})) == 100


def test_requests_are_told_apart_by_their_pictures() -> None:
    one, same, other, both, none = (
        RequestText("hi", (0, 2), None, tuple(map(read_picture, some)))
        for some in ([A], [bytes(bytearray(A))], [B], [A, B], [])
    )
    assert one == same
    assert request_digest(one) == request_digest(same)
    assert len({request_digest(text) for text in (one, other, both, none)}) == 4
    assert one != other
    assert one != none
    assert beginning_of(one) == beginning_of(same) != beginning_of(other)
    assert beginning_of(none) == "hi"


def test_a_picture_that_is_not_read_is_known_by_its_path() -> None:
    first, same, other = rendered(pa.array(["a", "a", "b"]))
    assert pictures_of(first) == (PicturePath("a"),)
    assert request_digest(str.__str__(first)) != request_digest(first) == request_digest(same) != request_digest(other)


def test_a_requests_weight_is_its_pictures_too() -> None:
    heavy = png(BLUE, width=500, height=500) + b"\x00" * MIB
    assert sys.getsizeof(RequestText("hi", (), None, (Picture("image/png", heavy),))) > MIB


@pytest.mark.parametrize("engine", ["echo", "mullama"])
def test_an_engine_that_takes_no_pictures_is_refused_by_name(engine: str) -> None:
    model = "echo" if engine == "echo" else "x.gguf"
    with pytest.raises(ConfigurationError, match=rf"the engine '{engine}' takes no pictures; use .*llamacpp.*openai"):
        GenerateJob(model=model, engine=engine, prompt_template="x", image_columns=["photo"])


SERVED: dict[str, Any] = {"model": "m", "engine": "openai", "engine_options": {"endpoint": "http://localhost:1"}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image_columns": "photo"}, "must be a list of columns"),
        ({"image_columns": []}, "must be a list of columns"),
        ({"image_columns": [1]}, "must be a list of columns"),
        ({"image_columns": ["a", "a"]}, "must name different columns"),
        ({"image_columns": [f"c{number}" for number in range(17)]}, "16 at most"),
        ({"image_root": "x"}, "image_root is for pictures, and there are no image_columns"),
        ({"mmproj": "x.gguf"}, "mmproj is for pictures, and there are no image_columns"),
        ({"image_columns": ["a"], "image_root": 5}, "image_root is 5; it must be a path"),
        ({"image_columns": ["a"], "image_root": "s3://key:secret@b/x"}, "holds a password"),
        ({"image_columns": ["a"], "mmproj": "x.gguf"}, "the projector is the server's"),
    ],
)
def test_what_cannot_work_is_refused_when_the_job_is_made(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        GenerateJob(**SERVED, prompt_template="x", **arguments)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def test_llamacpp_needs_a_projector() -> None:
    with pytest.raises(ConfigurationError, match=r"image_columns is given without mmproj.*name its GGUF file"):
        GenerateJob(model="x.gguf", engine="llamacpp", prompt_template="x", image_columns=["photo"])


def test_what_pictures_a_job_asks_about_is_part_of_its_fingerprint() -> None:
    def fingerprint(**arguments: Any) -> str:
        return GenerateJob(**SERVED, prompt_template="x", **arguments).request_fingerprint(model_sha256="0")

    different = [{}, {"image_columns": ["a"]}, {"image_columns": ["a", "b"]}, {"image_columns": ["b", "a"]}]
    different.append({"image_columns": ["a"], "image_root": "/x"})
    assert len({fingerprint(**arguments) for arguments in different}) == len(different)


def test_pictures_alone_can_be_classified() -> None:
    job = ClassifyJob(**SERVED, labels=["cat", "dog"], image_columns=["photo"])
    assert job.prompt is not None
    assert job.prompt.literals[0].startswith('Choose the one label that fits the picture best. Labels: "cat", "dog".')
    both = ClassifyJob(**SERVED, labels=["cat", "dog"], image_columns=["photo"], text_column="text")
    assert both.prompt is not None
    assert both.prompt.literals[0].startswith("Choose the one label that fits the picture and the text best.")
    assert both.template.distinct_columns == ["text", "photo"]
    with pytest.raises(ConfigurationError, match="exactly one of the two"):
        ClassifyJob(**SERVED, labels=["cat", "dog"])


def test_small_files_that_decode_to_gigabytes_together_are_that_rows_error() -> None:
    large = png_of((b"IHDR", struct.pack(">IIBBBBB", 8192, 8192, 8, 2, 0, 0, 0)), (b"IEND", b""))
    taken, refused = rendered(pa.array([[large, large], [large, large, A]], pa.list_(pa.binary())))
    assert contents([taken]) == [[large, large]]
    assert isinstance(refused, RowError)
    assert refused.error_type is ErrorType.ROW_TOO_LARGE
    assert refused.message == "its pictures have 134,218,128 pixels together, and 134,217,728 are the most"


def test_the_files_of_several_rows_are_looked_at_in_one_go() -> None:
    paths = [f"{row}.png" for row in range(ROWS_READ_TOGETHER)]
    files = Files(dict.fromkeys(paths, A))
    batch = pa.RecordBatch.from_pydict({"photo": pa.array(paths)})
    assert PictureTemplate(DESCRIBE, ("photo",), files=files).rows_at_once(batch) == ROWS_READ_TOGETHER
    assert files.was_looked_at[0] == paths  # what is asked later is known then


def test_of_a_row_with_too_many_paths_no_file_is_looked_at() -> None:
    files = Files({"a": A})
    batch = pa.RecordBatch.from_pydict({"photo": [["a"] * (MOST_PICTURES + 1), ["a"]]})
    template = PictureTemplate(DESCRIBE, ("photo",), files=files)
    assert template.rows_at_once(batch) == 2
    assert isinstance(template.render(batch)[0], RowError)
    assert {len(paths) for paths in files.was_looked_at} == {1}
