"""What keeps the documentation true: its links lead somewhere, and everything that can be set is in it."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from pathlib import Path

import pytest

from airflow_mullama import ClassifyJob, EmbedJob, GenerateJob
from airflow_mullama.engines.echo import FAULT_KINDS
from airflow_mullama.engines.llamacpp.memory import Memory, kv_bytes_per_token
from airflow_mullama.engines.llamacpp.settings import CHECKS as LLAMACPP_CHECKS
from airflow_mullama.engines.registry import engine_names, load_spec
from airflow_mullama.engines.sampling import Sampling
from airflow_mullama.get_provider_info import get_provider_info
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.rows import CHUNKS, EMBEDDING_COLUMN_NAMES, GENERATION_COLUMN_NAMES, TRUNCATED, ErrorType
from tests.documentation import (
    DOCS,
    PAGES,
    README,
    REPOSITORY,
    anchors,
    code_blocks,
    name_of,
    names_in_first_column,
    prose,
    relative_links,
    tables,
)

MODEL_CARD = REPOSITORY / "airflow_mullama/demo/models/ticket-tagger.md"
ALL_PAGES = [
    *PAGES,
    MODEL_CARD,
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "benchmarks/README.md",
    *sorted((REPOSITORY / "training").glob("*/README.md")),
]
MOST_WORDS_OF_README = 1200


def sources() -> list[Path]:
    folders = (REPOSITORY / name for name in ("airflow_mullama", "benchmarks", "dags", "tests", "training"))
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = [
        f"{target}#{anchor}"
        for target, anchor in relative_links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"(?<![\w/.-])((?:airflow_mullama|benchmarks|dags|docs|tests|training)/[\w./-]*\w)", prose(page))
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    linked = {target.resolve() for target, _ in relative_links(index)}
    assert [name_of(page) for page in PAGES if page not in linked and page != index] == []


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().split()) < MOST_WORDS_OF_README


def module_names(path: Path) -> set[str]:
    """What a module or package defines or imports at its top."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or something (or an attribute of something) in one."""
    place, parts = REPOSITORY, dotted.split(".")
    for position, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
            continue
        module = place / f"{part}.py"
        rest = parts[position + 1 :] if module.exists() else parts[position:]
        source = module if module.exists() else place / "__init__.py"
        return source.exists() and set(rest) <= module_names(source)
    return (place / "__init__.py").exists()


@pytest.mark.parametrize(
    "dotted", ["airflow_mullama.rows.Moved", "airflow_mullama.moved", "airflow_mullama.run.moved.x"]
)
def test_what_moved_away_is_noticed(dotted: str) -> None:
    assert not is_there(dotted)


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"\bairflow_mullama(?:\.[A-Za-z_]\w*)+", page.read_text())
    assert [dotted for dotted in named if not is_there(dotted)] == []


def test_every_name_that_a_docstring_refers_to_is_there() -> None:
    roles = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?(airflow_mullama[\w.]*)`")
    broken = {
        f"{name_of(path)}: {dotted}"
        for path in sources()
        for dotted in roles.findall(path.read_text())
        if not is_there(dotted)
    }
    assert broken == set()


@pytest.mark.parametrize("engine", engine_names())
def test_every_engine_option_has_a_line_and_no_other(engine: str) -> None:
    listed = names_in_first_column(DOCS / "engines" / f"{engine}.md", "engine_options")
    assert sorted(listed) == sorted(load_spec(engine).checks)


def test_every_scripted_fault_of_echo_has_a_line_and_no_other() -> None:
    assert sorted(names_in_first_column(DOCS / "engines/echo.md", "faults")) == sorted(FAULT_KINDS)


def test_every_argument_of_a_job_has_a_line() -> None:
    listed = set(names_in_first_column(DOCS / "jobs.md", "argument"))
    arguments = {field.name for job in (GenerateJob, EmbedJob, ClassifyJob) for field in dataclasses.fields(job)}
    assert arguments - listed == set()


def test_every_sampling_parameter_has_a_line_and_no_other() -> None:
    listed = names_in_first_column(DOCS / "jobs.md", "sampling")
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(Sampling))


def test_every_column_of_an_output_has_a_line_and_no_other() -> None:
    listed = names_in_first_column(DOCS / "output.md", "column")
    assert sorted(listed) == sorted({*GENERATION_COLUMN_NAMES, *EMBEDDING_COLUMN_NAMES, TRUNCATED, CHUNKS})


def test_every_error_type_has_a_line_and_no_other() -> None:
    listed = names_in_first_column(DOCS / "output.md", "error_type")
    assert sorted(listed) == sorted(error_type.value for error_type in ErrorType)


def test_every_setting_of_airflow_has_a_line_and_no_other() -> None:
    options = get_provider_info()["config"]["mullama"]["options"]
    assert sorted(names_in_first_column(DOCS / "airflow.md", "[mullama]")) == sorted(options)


def test_every_environment_variable_has_a_line_and_no_other() -> None:
    internal = {"AIRFLOW_MULLAMA_GPU_LOCK_DESCRIPTOR"}  # from a task to its worker
    read = {
        name
        for folder in ("airflow_mullama", "dags")
        for path in (REPOSITORY / folder).rglob("*.py")
        for name in re.findall(r"\"(AIRFLOW_MULLAMA_\w+)\"", path.read_text())
    }
    assert sorted(names_in_first_column(DOCS / "airflow.md", "variable")) == sorted(read - internal)


def test_every_key_of_a_manifest_is_explained() -> None:
    plain = {"task", "input_path", "output_path", "engine", "model", "started_at", "ended_at"}
    explained = set(re.findall(r"`(\w+)`", prose(DOCS / "manifest.md")))
    assert {*PartitionManifest.__dataclass_fields__, "rows_per_second", "tokens_per_second"} - explained <= plain


def test_the_cards_of_the_example_follow_from_its_arithmetic() -> None:
    text = re.sub(r"(?<=\d),(?=\d{3})", "", (DOCS / "scaling.md").read_text())
    terms = re.search(
        r"s  =  (\d+) × ([\d.]+) ÷ (\d+)  \+  (\d+) ÷ (\d+)  =  .* =  ([\d.]+) s, or ([\d.]+) rows/s", text
    )
    assert terms is not None
    prompt, evaluated, prompts, answer, answers, shown, rate = map(float, terms.groups())
    seconds = prompt * evaluated / prompts + answer / answers
    assert (shown, rate) == (pytest.approx(seconds), pytest.approx(1 / seconds, abs=0.05))
    (table,) = (table for table in tables(DOCS / "scaling.md") if "card hours" in table[0])
    for _, rows, hours, cards, *by_cards in table[1:]:
        needed = int(rows.replace(",", "")) * seconds / 3600
        assert float(hours) == pytest.approx(needed, abs=0.5 if needed > 100 else 0.05)
        assert int(cards) == math.ceil(needed / (8 * 0.9))
        assert [float(one) for one in by_cards] == [round(needed / 0.9 / count, 1) for count in (1, 4, 16)]
    load, per_row, least = re.search(r"19 × (\d+) ÷ ([\d.]+) = (\d+) rows", text).groups()  # type: ignore[union-attr]
    assert int(least) == round(19 * float(load) / float(per_row))
    assert f"at most {150000 // int(least)} tasks" in text
    assert f"at most {10000000 // int(least)}." in text


def test_every_room_has_a_line_and_no_other() -> None:
    package = REPOSITORY / "airflow_mullama"
    rooms = [path.parent.name for path in package.glob("*/__init__.py")]
    assert sorted(names_in_first_column(DOCS / "architecture.md", "room")) == sorted(rooms)


def imports_between_rooms(rooms: set[str]) -> set[tuple[str, str]]:
    package = REPOSITORY / "airflow_mullama"
    found = set()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_mullama."):
                found.add((room, str(node.module).split(".")[1]))
    return {(room, other) for room, other in found if {room, other} <= rooms and room != other}


def test_the_arrows_between_rooms_are_those_that_there_are() -> None:
    rooms = set(names_in_first_column(DOCS / "architecture.md", "room"))
    diagram = code_blocks(DOCS / "architecture.md", "mermaid")[0]
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)$", diagram, re.MULTILINE))
    imported = imports_between_rooms(rooms)
    assert drawn - imported == set()
    reached = set(drawn)
    while longer := {(a, d) for a, b in reached for c, d in drawn if b == c} - reached:
        reached |= longer
    assert imported - reached == set()


def test_what_fits_is_what_the_engine_would_choose() -> None:
    sizes, fitting = (table for table in tables(DOCS / "models.md") if table[0][0] in ("model", "rows at once"))
    assert len(fitting) == 2 * len(sizes) - 1
    row_bytes, parameters = {}, {}
    for name, billions, layers, kv_heads, width, of_token, of_row in sizes[1:]:
        metadata = {
            "general.architecture": "llama",
            "llama.block_count": int(layers),
            "llama.attention.head_count": int(kv_heads),
            "llama.attention.head_count_kv": int(kv_heads),
            "llama.attention.key_length": int(width),
            "llama.attention.value_length": int(width),
        }
        token_bytes = kv_bytes_per_token(GgufHeader(metadata), {})
        row_bytes[name], parameters[name] = token_bytes * 4096, float(billions) * 1e9
        assert (of_token, of_row) == (f"{token_bytes / 1e3:.0f} kB", f"{row_bytes[name] / 1e9:.2f} GB")
    bits = {kind: float(number) for kind, number in re.findall(r"(Q\w+) (\d\.\d\d)", prose(DOCS / "models.md"))}
    for name, weights, *rows in fitting[1:]:
        model, kind = name.rsplit(" ", 1)
        weight_bytes = parameters[model] * bits[kind] / 8
        assert weights == f"{weight_bytes / 1e9:.1f} GB"
        for heading, shown in zip(fitting[0][2:], rows, strict=True):
            free = float(heading.removesuffix(" GB")) * 1e9
            room = Memory(int(free), int(weight_bytes)).for_context
            assert room is not None
            count = int(room // row_bytes[model])
            most = LLAMACPP_CHECKS["n_parallel"].high  # type: ignore[union-attr]
            assert shown == (str(min(count, most)) if count else "–")
