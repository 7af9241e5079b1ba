"""`results` to JSONL, CSV and Parquet on both databases: same answers, complete or no file."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as fewer
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, insert, select, update

from contract.database.clock import db_now
from contract.database.engine import reading
from contract.database.tables import jobs, labels, models, results
from contract.errors import UnavailableError, UsageError
from contract.record import shortest
from contract.settings import Settings
from producer.jobs.export import folder, parquet
from producer.jobs.export.choice import Choice
from producer.jobs.export.export import Export, Written
from producer.jobs.export.folder import RECORD
from producer.jobs.export.input import Input
from producer.jobs.export.jsonl import JsonLines
from producer.jobs.export.rows import Row, Vocabulary, record_of
from producer.jobs.export.sinks import target_of
from producer.jobs.export.table import COLUMNS, Table, flatten
from producer.jobs.job import Job, find_job
from producer.jobs.results import read_results
from producer.submit.submission import submit
from tests.servers.objects import S3Server, serving_s3

IMAGES = 50
LABELS = ["tabby", "=tench", 'goldfish, "gold"', "große Katze", "a", "b", "c"]
FORMATS = ("jsonl", "csv", "parquet")


def float32(value: float) -> float:
    return pytest.importorskip("numpy").float32(value).item()


def uri_of(position: int) -> str:
    return (
        f"http://a.example/{position},{position}.jpg"
        if position % 7 == 3
        else f"http://a.example/{position}"
    )


def a_row(position: int) -> dict[str, Any]:
    """A row of each kind in turn: plain, with an id, redirected, with fewer classes, failed."""
    chance = random.Random(position)
    row: dict[str, Any] = {
        "position": position,
        "uri": uri_of(position),
        "attempts": 1 + position % 3,
    }
    if position % 5 == 4:
        return row | {
            "error_code": "http_404",
            "error_detail": ["=cmd", "a,b\n", None][position % 3],
        }
    scores = sorted((float32(chance.random() ** 4) for _ in range(5)), reverse=True)
    row |= {
        "model_number": 1, "precision": "bf16", "orientation": "exif", "bytes": 10 * position,
        "sha256": f"{position:064x}", "format": "JPEG", "width": 3, "height": 4, "worker": "w1",
        **{f"class_{rank}": chance.randrange(len(LABELS)) for rank in range(1, 6)},
        **{f"score_{rank}": score for rank, score in enumerate(scores, start=1)},
    }  # fmt: skip
    if position % 4 == 1:
        row |= {"ref": f"-mine-{position}", "final_uri": f"http://b.example/{position};=1"}
    if position % 11 == 6:
        row |= {"class_5": None, "score_5": None}
    if position % 13 == 7:
        row |= {"orientation": None, "format": None}
    return row


def store(engine: Engine, job: str, rows: list[dict[str, Any]]) -> None:
    with engine.begin() as connection:
        number = connection.scalar(select(jobs.c.number).where(jobs.c.id == job))
        for row in rows:
            connection.execute(
                insert(results).values(job_number=number, settled_at=db_now(), **row)
            )


def read_job(engine: Engine, job: str) -> Job:
    with reading(engine) as connection:
        return find_job(connection, job)


@pytest.fixture
def job(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of 50 images whose last two are unfinished. Windows and parts are short."""
    monkeypatch.setattr("producer.jobs.export.export.POSITIONS", 7)
    monkeypatch.setattr(folder, "POSITIONS_A_PART", 20)
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 16)
    settings = Settings()
    name = {"title": "m/w", "model": settings.model, "weights": settings.weights}
    with engine.begin() as connection:
        connection.execute(insert(models).values(number=1, **name, weights_sha256="00"))
        rows = [{"model_number": 1, "class_id": n, "label": one} for n, one in enumerate(LABELS)]
        connection.execute(insert(labels), rows)
    images = (
        (uri_of(n), f"-mine-{n}" if n % 4 == 1 and n % 5 != 4 else None) for n in range(IMAGES)
    )
    job = submit(engine, images, settings=settings)
    store(engine, job, [a_row(n) for n in range(IMAGES - 2)])
    return read_job(engine, job)


Run = Callable[..., Written]


@pytest.fixture
def run(engine: Engine, job: Job) -> Run:
    def run(output: Path | str, form: str = "jsonl", **options: Any) -> Written:
        settings = options.pop("settings", None) or Settings()
        export = Export(engine=engine, job=read_job(engine, job.id), form=form, **options)
        return export.write(target_of(str(output), settings))

    return run


def rows_of(path: Path, form: str) -> list[dict[str, Any]]:
    if form == "jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if form == "csv":
        return list(csv.DictReader(io.StringIO(path.read_text())))
    return pq.read_table(path).to_pylist()


def positions(path: Path, form: str = "jsonl") -> list[int]:
    return [int(row["position"]) for row in rows_of(path, form)]


def test_jsonl_has_the_records(run: Run, engine: Engine, job: Job, tmp_path: Path) -> None:
    written = run(tmp_path / "out.jsonl")
    assert written.rows == IMAGES - 2
    assert rows_of(tmp_path / "out.jsonl", "jsonl") == list(read_results(engine, job))


def test_csv_has_the_records_in_columns(run: Run, engine: Engine, job: Job, tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "csv")
    expected = [
        {name: _told(flatten(record).get(name)) for name in COLUMNS}
        for record in read_results(engine, job)
    ]
    found = rows_of(tmp_path / "out.csv", "csv")
    assert list(map(_numbers, found)) == list(map(_numbers, expected))


def _told(value: Any) -> str:
    return "" if value is None else str(value)


def _numbers(row: dict[str, str]) -> dict[str, str | float]:
    """Read scores as numbers, since 1e-9 and 1e-09 are equal."""
    return {
        name: float(text) if name.startswith("score") and text else text
        for name, text in row.items()
    }


def test_parquet_has_the_records_in_columns(
    run: Run, engine: Engine, job: Job, tmp_path: Path
) -> None:
    run(tmp_path / "out.parquet", "parquet")
    found = rows_of(tmp_path / "out.parquet", "parquet")
    by_position = {record["position"]: record for record in read_results(engine, job)}
    assert [row["position"] for row in found] == list(by_position)
    for row in found:
        record = by_position[row["position"]]
        for name in ("uri", "ref", "status", "model", "attempts", "precision", "orientation",
                     "final_uri", "bytes", "sha256", "format", "width", "height"):  # fmt: skip
            assert row[name] == record.get(name), name
        tops = [(row[f"label_{n}"], row[f"class_{n}"], row[f"score_{n}"]) for n in range(1, 6)]
        assert [
            (label, class_id, None if score is None else shortest(score))
            for label, class_id, score in tops
            if class_id is not None
        ] == [(top["label"], top["class_id"], top["score"]) for top in record.get("top5", [])]
        error = record.get("error", {})
        assert row["error_code"] == error.get("code")
        assert (row["error_detail"] or "") == error.get("detail", "")
        assert row["worker"] == (None if error else "w1")
        assert row["settled_at"].utcoffset().total_seconds() == 0


def test_times_in_parquet_are_those_of_the_database(
    run: Run, engine: Engine, job: Job, tmp_path: Path
) -> None:
    run(tmp_path / "out.parquet", "parquet")
    with reading(engine) as connection:
        ordered = select(results.c.settled_at).order_by(results.c.position)
        expected = list(connection.scalars(ordered))
    assert [row["settled_at"] for row in rows_of(tmp_path / "out.parquet", "parquet")] == expected


def test_a_job_of_failures_alone_has_the_same_schema(
    run: Run, engine: Engine, job: Job, tmp_path: Path
) -> None:
    run(tmp_path / "some.parquet", "parquet")
    run(tmp_path / "failed.parquet", "parquet", choice=Choice(only="failed"))
    run(tmp_path / "none.parquet", "parquet", choice=Choice(errors=("dns",)))
    schemas = {
        name: pq.read_schema(tmp_path / f"{name}.parquet") for name in ("some", "failed", "none")
    }
    assert schemas["some"] == schemas["failed"] == schemas["none"] == parquet.schema()
    assert pq.read_metadata(tmp_path / "none.parquet").num_rows == 0


def test_row_groups_are_full_and_compressed_with_zstd(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out.parquet", "parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes == [16, 16, 16]
    columns = {metadata.row_group(0).column(n).path_in_schema: metadata.row_group(0).column(n)
               for n in range(metadata.num_columns)}  # fmt: skip
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["label_1"].has_dictionary_page
    assert not columns["uri"].has_dictionary_page


CHOICES = [
    (Choice(), lambda row: True),
    (Choice(only="classified"), lambda row: row["status"] == "classified"),
    (Choice(only="failed"), lambda row: row["status"] == "failed"),
    (Choice(errors=("http_404", "dns")), lambda row: row["status"] == "failed"),
    (Choice(errors=("dns",)), lambda row: False),
    (Choice(after=30), lambda row: row["position"] > 30),
    (Choice(after=1_000), lambda row: False),
    (
        Choice(labels=("tabby", "a")),
        lambda row: row["status"] == "classified" and row["top5"][0]["label"] in ("tabby", "a"),
    ),
    (
        Choice(min_score=0.25),
        lambda row: row["status"] == "classified" and row["top5"][0]["score"] >= 0.25,
    ),
]


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_only_chosen_images_are_exported(
    run: Run, engine: Engine, job: Job, tmp_path: Path, number: int
) -> None:
    choice, fits = CHOICES[number]
    run(tmp_path / "out.jsonl", choice=choice)
    everything = list(read_results(engine, job))
    assert rows_of(tmp_path / "out.jsonl", "jsonl") == [row for row in everything if fits(row)]


def test_a_score_as_shown_passes_the_filter_for_it(
    run: Run, engine: Engine, job: Job, tmp_path: Path
) -> None:
    """A score of 0.7 is stored as 0.699999988."""
    with engine.begin() as connection:
        mine = results.c.position == 0
        connection.execute(update(results).where(mine).values(score_1=float32(0.7)))
    run(tmp_path / "out.jsonl", choice=Choice(min_score=0.7))
    assert 0 in positions(tmp_path / "out.jsonl")


# Complete, or no file


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_export_leaves_the_old_file(
    run: Run, job: Job, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    told = iter([None, None])

    def break_off(_positions: int) -> None:
        if next(told, True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, form, advance=break_off)
    assert path.read_text() == "before"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_folder_is_resumed_with_equal_content(
    run: Run, engine: Engine, job: Job, tmp_path: Path, form: str
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    first = run(f"{whole}/", form)
    assert (first.parts, first.kept, first.rows) == (3, 0, IMAGES - 2)
    done = 0

    def break_off(positions: int) -> None:
        nonlocal done
        done += positions
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(f"{resumed}/", form, advance=break_off)
    assert len(list(resumed.glob(f"part-*.{form}"))) == 1
    again = run(f"{resumed}/", form)
    assert (again.parts, again.kept, again.rows) == (2, 1, IMAGES - 2)
    names = sorted(path.name for path in whole.glob("part-*"))
    assert names == sorted(path.name for path in resumed.glob("part-*"))
    for name in names:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    assert [n for name in names for n in positions(whole / name, form)] == list(range(IMAGES - 2))
    assert run(resumed, form) == Written(IMAGES - 2, 0, 3)


def test_parts_whose_images_have_changed_are_written_again(
    run: Run, engine: Engine, job: Job, tmp_path: Path
) -> None:
    run(f"{tmp_path}/out/")
    store(engine, job.id, [a_row(IMAGES - 2)])
    assert run(f"{tmp_path}/out/") == Written(IMAGES - 1, 1, 2)
    with engine.begin() as connection:  # like a retry
        connection.execute(delete(results).where(results.c.position == 4))
    assert run(f"{tmp_path}/out/").parts == 1
    store(engine, job.id, [a_row(4)])
    assert run(f"{tmp_path}/out/") == Written(IMAGES - 1, 1, 2)


@pytest.mark.parametrize(
    ("form", "options"), [("csv", {}), ("jsonl", {"choice": Choice(only="failed")})]
)
def test_a_folder_with_another_export_is_refused(
    run: Run, tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    run(f"{tmp_path}/out/")
    with pytest.raises(UsageError, match="has another export: job"):
        run(f"{tmp_path}/out/", form, **options)
    (tmp_path / "out" / RECORD).write_text("[]")
    with pytest.raises(UsageError, match="cannot be read"):
        run(f"{tmp_path}/out/", form, **options)


# Object stores


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with serving_s3() as server:
        server.make_bucket("answers")
        yield server


@pytest.fixture
def to_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return Settings(s3_endpoint=s3.endpoint)


@pytest.mark.parametrize("form", FORMATS)
def test_an_object_has_the_same_content_as_a_file(
    run: Run, s3: S3Server, to_s3: Settings, tmp_path: Path, form: str
) -> None:
    run(tmp_path / "out", form)
    key = f"{tmp_path.name}/{form}/out"
    run(f"s3://answers/{key}", form, settings=to_s3)
    assert s3.get("answers", key) == (tmp_path / "out").read_bytes()


def test_a_prefix_is_resumed_like_a_folder(
    run: Run, s3: S3Server, to_s3: Settings, database_url: str
) -> None:
    prefix = f"s3://answers/{database_url[:6]}/parts/"
    assert run(prefix, settings=to_s3) == Written(IMAGES - 2, 3, 0)
    assert run(prefix, settings=to_s3) == Written(IMAGES - 2, 0, 3)


def test_an_interrupted_upload_makes_no_object(
    run: Run, s3: S3Server, to_s3: Settings, database_url: str
) -> None:
    def break_off(_positions: int) -> None:
        raise KeyboardInterrupt

    key = f"{database_url[:6]}/half"
    with pytest.raises(KeyboardInterrupt):
        run(f"s3://answers/{key}", settings=to_s3, advance=break_off)
    assert s3.get("answers", key) is None


def test_the_error_names_a_missing_bucket(run: Run, to_s3: Settings) -> None:
    with pytest.raises(UnavailableError, match=r"s3://no-such-bucket/out cannot be written"):
        run("s3://no-such-bucket/out", settings=to_s3)


# The submitted list beside the answers


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["caption", "url", "id", "price"])
        for n in range(IMAGES):
            ref = f"-mine-{n}" if n % 4 == 1 and n % 5 != 4 else ""
            table.writerow([f"=picture {n}", uri_of(n), ref, n / 2])
    return path


def test_the_lists_columns_appear_beside_the_answers(
    run: Run, tmp_path: Path, listed: Path
) -> None:
    given = Input([str(listed)], Settings(), id_column="id")
    run(tmp_path / "out.jsonl", given=given)
    row = rows_of(tmp_path / "out.jsonl", "jsonl")[5]
    assert row["input"] == {"caption": "=picture 5", "price": "2.5"}
    run(tmp_path / "out.csv", "csv", given=given)
    row = rows_of(tmp_path / "out.csv", "csv")[5]
    assert (row["input_caption"], row["input_price"]) == ("'=picture 5", "2.5")
    run(tmp_path / "out.parquet", "parquet", given=given)
    row = rows_of(tmp_path / "out.parquet", "parquet")[5]
    assert (row["input_caption"], row["input_price"]) == ("=picture 5", "2.5")


def test_columns_match_positions_in_filtered_exports_and_in_parts(
    run: Run, tmp_path: Path, listed: Path
) -> None:
    given = Input([str(listed)], Settings(), id_column="id", keep=("caption",))
    run(tmp_path / "out.jsonl", given=given, choice=Choice(only="failed", after=10))
    for row in rows_of(tmp_path / "out.jsonl", "jsonl"):
        assert row["input"] == {"caption": f"=picture {row['position']}"}
    run(f"{tmp_path}/parts/", "csv", given=given)
    (tmp_path / "parts" / "part-000000000020.csv").unlink()
    record = json.loads((tmp_path / "parts" / RECORD).read_text())
    del record["parts"]["part-000000000020.csv"]
    (tmp_path / "parts" / RECORD).write_text(json.dumps(record))
    assert run(f"{tmp_path}/parts/", "csv", given=given).parts == 1
    row = rows_of(tmp_path / "parts" / "part-000000000020.csv", "csv")[0]
    assert (row["position"], row["input_caption"]) == ("20", "'=picture 20")


def test_a_text_list_is_checked_and_adds_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    lines = [
        f"{uri_of(n)}\t-mine-{n}" if n % 4 == 1 and n % 5 != 4 else uri_of(n) for n in range(IMAGES)
    ]
    path.write_text("# mine\n\n" + "\n".join(lines) + "\n")
    run(tmp_path / "out.jsonl", given=Input([str(path)], Settings()))
    rows = rows_of(tmp_path / "out.jsonl", "jsonl")
    assert len(rows) == IMAGES - 2
    assert not any("input" in row for row in rows)
    path.write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]))  # the two unfinished images
    with pytest.raises(UsageError, match="its URIs, ids or their order differ"):
        run(tmp_path / "swapped.jsonl", given=Input([str(path)], Settings()))


# Any content of a row

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
maybe = st.none()
floats = st.floats(0, 1, width=32)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    classes = draw(st.lists(st.integers(0, 8), min_size=5, max_size=5))
    known = [
        draw(st.none() | texts), draw(st.integers(0, 9)), draw(st.text("0f9")), draw(texts), 3, 4,
    ]  # fmt: skip
    return (
        draw(st.integers(0, 2**40)), draw(texts), draw(maybe | texts), draw(st.integers(1, 9)),
        None, None, *known, 1, draw(maybe | texts), draw(st.sampled_from([None, "exif"])),
        *classes, *(draw(floats) for _ in range(5)),
    )  # fmt: skip


class Names(Vocabulary):
    def __init__(self) -> None:
        pass

    def title(self, model_number: int | None) -> str:
        return f'm/"{model_number}",é'

    def labels(self, model_number: int) -> dict[int, str]:
        return dict(enumerate(LABELS))


@fewer(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(any_row(), min_size=1, max_size=5))
def test_the_fast_encoders_write_the_same_as_the_records(rows: list[Row]) -> None:
    lines = JsonLines(Names()).encode(rows).decode("ascii").splitlines()
    records = [record_of(row, Names()) for row in rows]
    assert [json.loads(line) for line in lines] == records
    for line, record in zip(lines, records, strict=True):
        assert list(json.loads(line)) == list(record)
    table = Table(Names())
    read = list(
        csv.DictReader(io.StringIO((table.head() + table.encode(rows)).decode(), newline=""))
    )
    for row, record in zip(read, records, strict=True):
        flat = flatten(record)
        for name in COLUMNS:
            value = flat.get(name)
            if isinstance(value, float):
                assert float(row[name]) == value
            else:
                assert row[name] == _told(value)
