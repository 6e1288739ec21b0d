"""What stands in a file is what is read, whatever the format; what can be read in two ways is refused."""

import csv
import json

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import read_table, table_of
from subspace_tuning.tasks.labels import classes

FORMATS = ["csv", "tsv", "jsonl", "json", "columns.json", "parquet"]
NAMES = [
    ("no", "yes"),
    ("True", "False"),
    ("true", "false"),
    ("1", "0"),
    ("1", "2", "3"),
    ("-1", "0", "1"),
    ("007", "7", "07"),
    ("0.5", "1.0", "2"),
    ("1e3", "1000"),
    ("NA", "nan", "null"),
    ("off", "on", "None"),
    ("inf", "-inf"),
    ("a, b", 'c "d"', "e\nf"),
    (" x", "x", "x "),
]
A_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=8)


def written(folder, form, content):
    """The rows as a file of some format, by other writers than ours reads."""
    path = folder / f"rows.{form}"
    frame = pandas.DataFrame(content)
    if form in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "," if form == "csv" else "\t"
            writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows([list(content[0]), *(list(row.values()) for row in content)])
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(content), encoding="utf-8")
    elif form == "columns.json":
        frame.to_json(path)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", NAMES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_a_label_is_the_name_that_stands_in_the_file(tmp_path, form, names, turned):
    content = [{"text": f"row {i}", "label": name} for i, name in enumerate(names * 2)]
    labels = names[::-1] if turned else names
    found = classes(read_table(written(tmp_path, form, content)), "label", labels)
    assert [labels[i] for i in found] == [row["label"] for row in content]


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(A_TEXT, min_size=2, max_size=4, unique=True), data=st.data())
def test_any_name_in_any_order(tmp_path, form, names, data):
    held = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6))
    content = [{"text": f"row {i}", "label": name} for i, name in enumerate(held)]
    table = read_table(written(tmp_path, form, content))
    assert table.column("text") == [row["text"] for row in content]
    assert [names[i] for i in classes(table, "label", tuple(names))] == held


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ([True, False], ("True", "False"), [0, 1]),
        ([True, False], ("false", "true"), [1, 0]),
        ([1, 0], ("1", "0"), [0, 1]),
        ([1, 2], ("1", "2", "3"), [0, 1]),
        ([-1, 0, 1], ("-1", "0", "1"), [0, 1, 2]),
        ([1.0, 2.0], ("1", "2", "3"), [0, 1]),
        ([0.5, 1.0], ("1.0", "0.5"), [1, 0]),
        ([1, 0], ("bad", "good"), [1, 0]),
        ([1.0, 0.0], ("bad", "good"), [1, 0]),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_real_booleans_and_numbers(tmp_path, form, values, names, expected):
    """true is the name true, a number the name that is written like it; where no name is a number, numbers count."""
    path = written(tmp_path, form, [{"label": value} for value in values])
    assert classes(read_table(path), "label", names) == expected


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([True, False], ("bad", "good")),
        ([True, False], ("1", "0")),
        ([0, 1], ("1", "2", "3")),
        (["1.0", "2.0"], ("1", "2", "3")),
        (["True", "False"], ("true", "false")),
        (["bad", 1], ("bad", "good")),
        (["01"], ("bad", "good")),
        (["+1"], ("bad", "good")),
        (["１"], ("bad", "good")),
        ([1.5], ("bad", "good")),
        ([1.0], ("1", "1.0")),
        ([[1]], ("bad", "good")),
        ([None], ("None", "good")),
    ],
)
def test_what_could_be_another_class_is_refused(values, names):
    with pytest.raises(BadInput, match=r"row 1|row 2|mixes"):
        classes(table_of("rows", {"label": values}), "label", names)


ROWS = st.lists(st.tuples(A_TEXT, st.sampled_from(["bad", "good"])), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ROWS)
def test_a_tsv_without_quoting_is_read_line_by_line_or_refused(tmp_path, content):
    content = [(text.replace("\t", " ").replace("\n", " "), label) for text, label in content]
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in content), encoding="utf-8")
    if any(text[0] == text[-1] == '"' and len(text) > 1 for text, _ in content):
        return  # what a quoted field looks like
    table = read_table(path)
    assert [*zip(table.columns["text"], table.columns["label"], strict=True)] == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=ROWS)
def test_a_tsv_with_quoting_where_it_must_be(tmp_path, content):
    path = tmp_path / "rows.tsv"
    pandas.DataFrame(content, columns=["text", "label"]).to_csv(path, sep="\t", index=False)
    table = read_table(path)
    assert [*zip(table.columns["text"], table.columns["label"], strict=True)] == content


def test_a_quoted_text_of_a_tab_and_a_line_end(tmp_path):
    """Two rows without quoting, the first without a label; one with it."""
    (tmp_path / "rows.tsv").write_text('text\tlabel\n"\t\n"\tbad\n')
    assert read_table(tmp_path / "rows.tsv").columns == {"text": ["\t\n"], "label": ["bad"]}


def test_a_text_that_begins_with_a_quotation_mark_swallows_no_lines(tmp_path):
    lines = ['"Good, he said.\t1', "Bad.\t0", '"Fine" was the word\t1', 'It ends with "\t0', '"\t1', "x\t0"]
    (tmp_path / "rows.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    table = read_table(tmp_path / "rows.tsv")
    assert table.columns["text"] == [line.split("\t")[0] for line in lines]
    assert list(table.lines) == [2, 3, 4, 5, 6, 7]


def test_line_ends_within_quotation_marks_and_others_within_texts(tmp_path):
    texts = ["two\nlines", "form\x0cfeed", "next\x85line", "line\u2028separator", "x" * 200_000]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "0"] for text in texts)])
    table = read_table(tmp_path / "rows.csv")
    assert table.columns["text"] == texts
    assert list(table.lines) == [2, 4, 5, 6, 7]
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    assert read_table(tmp_path / "rows.jsonl").columns["text"] == texts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_encodings_and_byte_order_marks(tmp_path, form, encoding):
    path = written(tmp_path, form, [{"text": "café", "label": 0}])
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    said = "utf-8" if encoding == "utf-8-sig" else encoding
    table = read_table(path, said)
    assert (list(table.columns), table.columns["text"]) == (["text", "label"], ["café"])


def test_columns_of_numbers_and_of_true_and_false_are_texts(tmp_path):
    (tmp_path / "rows.csv").write_text("text,other,label\n007,True,0\n1e5,NA,1\n")
    table = read_table(tmp_path / "rows.csv")
    assert (table.column("text"), table.column("other")) == (["007", "1e5"], ["True", "NA"])
