"""What stands in a file is what is read, whatever the format; what can be read in two ways is refused."""

import csv
import json

import pandas
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from subspace_tuning.errors import BadInput
from subspace_tuning.files.conll import read_conll
from subspace_tuning.files.table import read_table, table_of
from subspace_tuning.tasks.labels import classes, numbers
from subspace_tuning.tasks.question_answering import QuestionAnswering

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


def test_line_ends_may_be_mixed(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'text,label\r\na,0\n"b\rb",1\rc,0\r\n')
    table = read_table(tmp_path / "rows.csv")
    assert table.columns == {"text": ["a", "b\rb", "c"], "label": ["0", "1", "0"]}
    (tmp_path / "rows.conll").write_bytes(b"Anna B\r\nlives O\n\r\nA O\rb O\n")
    assert read_conll(tmp_path / "rows.conll", "t", "l").columns["t"] == [["Anna", "lives"], ["A", "b"]]


def test_words_of_a_line_are_parted_by_blanks_and_tabs_alone(tmp_path):
    (tmp_path / "rows.conll").write_text("10\u00a0000\tO\n\u3000 \t O\n lives O\n", encoding="utf-8")
    assert read_conll(tmp_path / "rows.conll", "t", "l").columns["t"] == [["10\u00a0000", "\u3000", "lives"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("half.jsonl", b'{"text": "a \\ud800 b"}', r"line 1 has '\\ud800', one half of a character"),
        ("half.json", b'[{"\\uDC00": "a"}]', "one half of a character"),
        ("nul.tsv", b"text\tlabel\na\0b\t0\n", "NUL characters"),
        ("header.jsonl", b"\xef\xbb\xbf\n", "is empty"),
        ("none.json", b"[]", "is empty"),
        ("rows.csv", b"text;label\na;0\n", "seems to be parted by ';'"),
        ("rows.csv", b"text\tlabel\na\t0\n", r"seems to be parted by '\\t'"),
        ("rows.tsv", b"text,label\na,0\n", "seems to be parted by ','"),
        ("lines.json", b'{"text": "a"}\n{"text": "b"}\n', "one object a line are .jsonl"),
    ],
)
def test_odd_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_table(tmp_path / name).column("text")


def test_a_whole_character_in_two_halves_is_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "\N{GRINNING FACE}", "b": "\\ud800"}))
    assert read_table(tmp_path / "rows.jsonl").columns == {"text": ["\N{GRINNING FACE}"], "b": ["\\ud800"]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pyarrow.array([b"\xff"]).view(pyarrow.string()), "cannot read column 'odd'"),
        (pyarrow.array([10**9], pyarrow.date32()), "cannot read column 'odd'"),
        (pyarrow.array([2**62], pyarrow.timestamp("us")), "cannot read column 'odd'"),
        (pyarrow.array([1], pyarrow.timestamp("us", tz="No/Where")), "cannot read column 'odd'"),
        (None, "two columns 'text'"),
    ],
)
def test_columns_of_parquet_that_cannot_be_read_are_named(tmp_path, values, said):
    texts = pyarrow.array(["a"])
    table = pyarrow.table([texts, values or texts], names=["text", "odd" if values else "text"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=said):
        read_table(tmp_path / "rows.parquet")


@pytest.mark.parametrize("value", ["1_5", "1,5", "", " ", "0x1", True, None, "inf"])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(BadInput, match="row 1"):
        numbers(table_of("rows", {"label": [value]}), "label")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": ["Anna"], "answer_start": []}, "1 text.s. and 0 answer_start"),
        ([{"text": " ", "answer_start": 4}], "does not stand at character 4"),
    ],
)
def test_half_an_answer_is_no_question_without_one(answers, said):
    rows = {"question": ["Who?"], "context": ["Anna lives."], "answers": [answers]}
    with pytest.raises(BadInput, match=said):
        QuestionAnswering(name="qa").rows(table_of("rows", rows))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"data": []}', "is empty"),
        ('{"data": [{"paragraphs": 5}]}', "expected articles"),
        ('{"a": "\\ud800"}', "half"),
    ],
)
def test_files_like_squads_that_are_none(tmp_path, content, said):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(BadInput, match=said):
        QuestionAnswering(name="qa").read(tmp_path / "rows.json")
