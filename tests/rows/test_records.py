"""Records come out of every format alike, and what is wrong with a file is one sentence."""

import json

import pandas
import pytest

from subspace_tuning.errors import BadInput
from subspace_tuning.rows import Records, read, sampled

ROWS = [{"text": t, "by": "me"} for t in ("one", "two, and\nmore", "drei — \u2028 vier")]


def _written(path, rows):
    frame = pandas.DataFrame(rows)
    write = {
        ".jsonl": lambda: path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"),
        ".json": lambda: path.write_text(json.dumps(rows), "utf-8"),
        ".parquet": lambda: frame.to_parquet(path),
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
    }
    write[path.suffix]()
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".tsv"])
def test_every_format_says_the_same(tmp_path, suffix):
    assert read(_written(tmp_path / f"rows{suffix}", ROWS)).rows == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_nested_rows_stay_lists_and_mappings(tmp_path, suffix):
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}]
    assert read(_written(tmp_path / f"rows{suffix}", rows)).rows == rows


def test_texts_may_be_long(tmp_path):
    rows = [{"text": "x" * 200_000}]
    assert read(_written(tmp_path / "rows.csv", rows)).rows == rows


def test_json_of_columns_is_read_too(tmp_path):
    (tmp_path / "rows.json").write_text('{"text": ["a", "b"], "n": [1, 2]}')
    assert read(tmp_path / "rows.json").rows == [{"text": "a", "n": 1}, {"text": "b", "n": 2}]


def test_a_folder_gives_the_first_split_that_is_there(tmp_path):
    _written(tmp_path / "train.jsonl", ROWS)
    _written(tmp_path / "validation.jsonl", ROWS[:2])
    assert len(read(tmp_path)) == 2
    assert len(read(tmp_path, "train")) == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", "", "is empty"),
        ("rows.jsonl", "\n\n", "is empty: expected at least one row"),
        ("rows.jsonl", '{"text": "a"}\n{"text": ', "line 2 as jsonl"),
        ("rows.jsonl", "[1, 2]", "line 1 is .*, expected an object"),
        ("rows.json", '"text"', "expected a list of rows"),
        ("rows.json", '{"a": [1], "b": []}', "have different rows"),
        ("rows.csv", "text\n", "is empty: expected at least one row"),
        ("rows.csv", "text,more\na\n", "line 2: found 1 field.*expected 2 fields"),
        ("rows.csv", "text\na,b\n", "line 2: found 2 field"),
        ("rows.csv", "text,text\na,b\n", "two columns 'text'"),
        ("rows.parquet", "no parquet", "cannot read the data file"),
        ("rows.txt", "text", "expected a file that ends in"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=said) as told:
        read(tmp_path / name)
    assert "\n" not in str(told.value)


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "rows.csv").write_bytes("text\nété".encode("latin-1"))
    with pytest.raises(BadInput, match="is not utf-8: line 2"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere/at/all", "there is no data file or folder"),
        ("nobody/nothing", "cannot be loaded from the hub"),
    ],
)
def test_what_is_not_there_is_said(source, said):
    with pytest.raises(BadInput, match=said):
        read(source)


def test_a_folder_without_the_split_is_said(tmp_path):
    with pytest.raises(BadInput, match="has no file test"):
        read(tmp_path)


def test_a_data_set_of_the_hub_is_read_by_its_splits(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: ["train", "validation"])
    made = {"validation": datasets.Dataset.from_list(ROWS)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset, split: made[split])
    assert read("some/set", subset="easy").rows == ROWS
    with pytest.raises(BadInput, match=r"no split test: its splits are train, validation"):
        read("some/set", "test")


def test_a_sample_is_fixed_and_keeps_the_numbers():
    records = Records.of([{"text": str(i)} for i in range(50)])
    some = sampled(records, 10)
    assert some.rows == sampled(records, 10).rows
    assert [row["text"] for row in some.rows] == [str(n) for n in some.numbers]
    assert some.numbers == sampled(records, 20).numbers[:10]  # a smaller sample lies in a greater one
    assert sampled(records, None) is records
    assert sampled(records, 99) is records
