"""`resnext.batch.Classify` turns columns into answers; a bad picture harms no other."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from resnext.batch import Classify
from resnext.spec.catalogue import BUNDLED
from tests.pictures.demo import PICTURES

CHELSEA = PICTURES / "chelsea.jpg"


def classify(column: str = "image", **options: Any) -> Classify:
    given = {"model": BUNDLED, "weights": "random", "precision": "fp32", "device": "cpu"}
    return Classify(column, **given | {"batch_images": 4} | options)


@pytest.fixture(scope="module")
def loaded() -> Classify:
    return classify()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def rows_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two rows are equal, except for the last bits of scores.

    These bits depend on the size of the batch.
    """
    return first == {
        name: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
        for name, value in second.items()
    }


def test_a_picture_has_the_same_answer_in_whatever_form_it_is_given(loaded: Classify) -> None:
    picture = Image.open(CHELSEA).convert("RGB")
    body = png(picture)
    given = [
        body, bytearray(body), memoryview(body), picture, np.asarray(picture),
        {"bytes": body, "path": None}, {"bytes": body, "path": "lost.png"},
    ]  # fmt: skip
    rows = rows_of(loaded({"image": given}))
    assert rows[0]["error_code"] is None
    assert all(alike(row, rows[0]) for row in rows)
    paths = [CHELSEA, str(CHELSEA), {"bytes": None, "path": str(CHELSEA)}, CHELSEA.read_bytes()]
    rows = rows_of(loaded({"image": paths}))
    assert all(alike(row, rows[0]) for row in rows)


def test_pictures_may_be_one_array_grey_or_with_alpha(loaded: Classify) -> None:
    grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    columns = (grey, grey[:, :, None], np.stack([grey] * 3, axis=2))
    rows = rows_of(loaded({"image": columns}))
    assert alike(rows[0], rows[1])
    assert alike(rows[0], rows[2])
    alpha = np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=2)
    assert alike(rows_of(loaded({"image": alpha[None]}))[0], rows[0])
    batch = np.stack([np.stack([grey] * 3, axis=2)] * 2)  # (2, 48, 64, 3), as in Ray Data
    assert all(alike(row, rows[0]) for row in rows_of(loaded({"image": batch})))


BAD: dict[str, tuple[Any, str, str]] = {
    "nothing": (None, "unreadable", "no picture"),
    "no bytes and no path": ({"bytes": None, "path": None}, "unreadable", "no picture"),
    "a number": (3, "unreadable", "int"),
    "floats": (np.zeros((4, 4, 3)), "unreadable", "an array (4, 4, 3) of float64"),
    "five channels": (np.zeros((4, 4, 5), np.uint8), "unreadable", "an array (4, 4, 5) of uint8"),
    "no height": (np.zeros((0, 4, 3), np.uint8), "decode_error", ""),
    "no file": ("/no/such/file.jpg", "unreadable", "No such file or directory"),
    "a text": (b"words", "not_an_image", ""),
    "no bytes": (b"", "not_an_image", ""),
    "half of a file": (CHELSEA.read_bytes()[:20_000], "truncated", ""),
}


def test_a_bad_picture_does_not_lose_its_batch(loaded: Classify) -> None:
    """There are more bad pictures than fit into one batch of the network."""
    values = [value for bad, _, _ in BAD.values() for value in (bad, CHELSEA)]
    rows = rows_of(loaded({"image": values, "id": list(range(len(values)))}))
    assert [row["id"] for row in rows] == list(range(len(values)))
    whole = rows[1::2]
    assert {row["label_1"] for row in whole} == {whole[0]["label_1"]}
    assert None not in {row["score_5"] for row in whole}
    for row, (_, code, detail) in zip(rows[::2], BAD.values(), strict=True):
        assert row["error_code"] == code
        assert detail in (row["error_detail"] or "")
        answers = {row[name] for name in loaded.columns if not name.startswith("error")}
        assert answers == {None}


def test_the_columns_match_the_results_in_parquet(loaded: Classify) -> None:
    from producer.jobs.export.parquet import schema

    columns = loaded.columns
    found = loaded({"image": [CHELSEA, None]})
    assert list(found) == list(columns)
    table = pa.table(found)
    kinds = {str: pa.types.is_string, int: pa.types.is_integer, float: pa.types.is_floating}
    for name, kind in columns.items():
        assert kinds[kind](table.schema.field(name).type), name
        assert kinds[kind](schema().field(name).type), name


def test_top_says_how_many_classes() -> None:
    found = classify(top=1)({"image": [CHELSEA]})
    assert list(found) == ["label_1", "class_1", "score_1", "error_code", "error_detail"]
    for top in (0, 6):
        with pytest.raises(ValueError, match=f"top must be from 1 to 5, got {top}"):
            classify(top=top)


def test_kept_columns_stand_beside_the_answers() -> None:
    batch = {"image": [CHELSEA], "id": [7], "note": np.array(["x"])}
    assert [name for name in classify()(batch) if name in batch] == ["id", "note"]
    kept = classify(keep=["image", "id"])(batch)
    assert (kept["image"], kept["id"], "note" in kept) == ([CHELSEA], [7], False)


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        ({"picture": [], "id": []}, {}, "no column 'image'. Columns: 'picture', 'id'."),
        ({"image": []}, {"keep": ["id"]}, "no column 'id'. Columns: 'image'."),
        ({"image": [], "label_1": []}, {}, "has a column 'label_1', which is also"),
    ],
)
def test_a_batch_without_a_named_column_is_refused(
    batch: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        classify(**options)(batch)


def test_an_empty_batch_has_no_answers(loaded: Classify) -> None:
    assert loaded({"image": [], "id": []}) == {"id": []} | {name: [] for name in loaded.columns}


def test_a_copy_is_small_and_answers_the_same(loaded: Classify) -> None:
    expected = loaded({"image": [CHELSEA]})
    copied = pickle.dumps(loaded)
    assert len(copied) < 1_000
    assert pickle.dumps(classify()) == copied  # engines recognise a step by its bytes
    found = pickle.loads(copied)({"image": [CHELSEA]})
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == (pytest.approx(values, rel=1e-3) if "score" in name else values)


def test_importing_and_pickling_it_loads_no_torch() -> None:
    program = """
import pickle, sys
from resnext.batch import Classify
pickle.loads(pickle.dumps(Classify("image")))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


DATASETS = """
import json, sys
from pathlib import Path
from datasets import ClassLabel, Dataset, Features, Image, Value
from resnext.batch import Classify

folder, processes = Path(sys.argv[1]), int(sys.argv[2]) or None
options = json.loads(sys.argv[3])
paths = sorted(folder.iterdir())
features = Features(
    {"image": Image(decode=False), "name": Value("string"),
     "kind": ClassLabel(names=["photo", "other"])}
)
rows = {"image": [str(path) for path in paths], "name": [path.name for path in paths],
        "kind": [0] * len(paths)}
dataset = Dataset.from_dict(rows, features=features)
step = Classify("image", keep=(), **options)
kinds = {str: Value("string"), int: Value("int64"), float: Value("float64")}
answers = {name: kinds[kind] for name, kind in step.columns.items()}
found = dataset.map(
    step, batched=True, batch_size=4, num_proc=processes,
    features=Features({**features, **answers}),
)
assert isinstance(found.features["kind"], ClassLabel)
print(json.dumps(found.remove_columns(["image", "kind"]).to_list()))
"""


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Pictures of several formats, and two files that are not pictures."""
    folder = tmp_path / "album"
    folder.mkdir()
    for path in PICTURES.iterdir():
        if path.suffix in {".jpg", ".png", ".gif"}:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def with_datasets(album: Path, processes: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", DATASETS, album, str(processes), json.dumps(options)],
        env=os.environ | {"HF_HOME": str(album.parent / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def by_the_command(album: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [Path(sys.executable).with_name("resnextq"), "classify", "--json", album],
        env=os.environ
        | {"RESNEXT_MODEL": options["model"], "RESNEXT_PRECISION": options["precision"]}
        | {"RESNEXT_HOME": str(album.parent / "home")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("processes", [0, 2])
def test_datasets_map_gives_the_answers_of_resnextq_classify(album: Path, processes: int) -> None:
    options = {"model": BUNDLED, "precision": "fp32", "device": "cpu", "threads": 1}
    found = with_datasets(album, processes, options)
    expected = by_the_command(album, options)
    assert len(found) == len(expected) > 10
    for row, record in zip(found, expected, strict=True):
        assert record["uri"].endswith(row["name"])
        if "error" in record:
            assert (row["error_code"], row["label_1"]) == (record["error"]["code"], None)
            assert (row["error_detail"] or "") == record["error"]["detail"]
            continue
        assert row["error_code"] is None
        for rank, guess in enumerate(record["top5"], start=1):
            assert (row[f"label_{rank}"], row[f"class_{rank}"]) == (
                guess["label"],
                guess["class_id"],
            )
            assert row[f"score_{rank}"] == pytest.approx(guess["score"], abs=1e-6)
    assert {"truncated", None} < {row["error_code"] for row in found}
