"""Questions with options are read in the columns in which each data set has them."""

import pytest

from subspace_tuning.errors import BadInput
from subspace_tuning.judge.questions import ASK, ASK_OF, GO_ON, Question, question_of

CHOICES = {"text": ["red", "blue"], "label": ["A", "B"]}


def _choices(question, texts, labels: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0") -> dict:
    labels = labels if len(labels) < 4 else labels[: len(texts)]
    return {"question": question, "choices": {"text": texts, "label": [*labels]}, "answerKey": "A"}


def _said(instruction: str, answer: str) -> dict:
    return {"instruction": instruction, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


SISTERS = {
    "answers": _said(
        "Please choose the correct answer to the question: Which: red, or\nnot?\n\nAnswer1: red Answer2: blue\n\n"
        "Answer format: answer1/answer2",
        "answer2",
    ),
    "solutions": _said(
        "Please choose the correct solution to the question: How?\n\nSolution1: do: this\n\nSolution2: do that\n\n"
        "Answer format: solution1/solution2",
        "solution1",
    ),
    "endings": _said(
        "Please choose the correct ending to complete the given sentence: Ice: a man\n\nEnding1: , who runs. "
        "Ending2: sits.\n\nAnswer format: ending1/ending2",
        "ending2",
    ),
    "true or false": _said(
        "Please answer the following question with true or false, question: is it?\n\nAnswer format: true/false",
        "false",
    ),
    "blanks": _said(
        "Please choose the correct answer to fill in the blank to complete the given sentence: Ann saw _ .\n\n"
        "Option1: Bo Option2: Cy Answer format: option1/option2",
        "option2",
    ),
}


@pytest.mark.parametrize(
    ("name", "question", "options", "right", "template"),
    [
        ("answers", "Which: red, or\nnot?", ("red", "blue"), 1, ASK),
        ("solutions", "How?", ("do: this", "do that"), 0, ASK),
        ("endings", "Ice: a man", (", who runs.", "sits."), 1, GO_ON),
        ("true or false", "is it?", ("true", "false"), 1, ASK),
        ("blanks", "Ann saw _ .", ("Bo", "Cy"), 1, ASK),
    ],
)
def test_options_are_found_in_an_instruction(name, question, options, right, template):
    read = question_of(SISTERS[name])
    assert (read.question, read.options, read.right, read.template) == (question, options, right, template)
    assert read.instruction == SISTERS[name]["instruction"]
    assert read.labels[right] == SISTERS[name]["answer"]


@pytest.mark.parametrize(
    ("record", "question"),
    [
        (
            {"id": "1", "question": "q", "choices": CHOICES, "answerKey": "B"},
            Question("q", ("red", "blue"), 1, labels=("A", "B")),
        ),
        (
            {"id": "1", "question": "q", "choices": {**CHOICES, "label": ["1", "2"]}, "answerKey": "1"},
            Question("q", ("red", "blue"), 0, labels=("1", "2")),
        ),
        (
            {"question_stem": "q", "choices": CHOICES, "answerKey": "A", "fact1": "f"},
            Question("q", ("red", "blue"), 0, labels=("A", "B")),
        ),
        ({"ctx": "c", "endings": ["x", "y"], "label": "1", "ind": 3}, Question("c", ("x", "y"), 1, GO_ON)),
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": 0}, Question("g", ("x", "y"), 0)),
        ({"question": "is it", "passage": "p", "answer": True}, Question("is it?", ("no", "yes"), 1, ASK_OF, "p")),
        ({"question": "is it?", "passage": "p", "label": 0}, Question("is it?", ("no", "yes"), 0, ASK_OF, "p")),
        ({"sentence": "_ is", "option1": "x", "option2": "y", "answer": "2"}, Question("_ is", ("x", "y"), 1)),
    ],
)
def test_data_sets_of_the_hub_are_read_in_their_columns(record, question):
    assert question_of(record) == question


def test_how_a_question_is_put():
    read = question_of(SISTERS["endings"])
    assert [read.put() + answer for answer in read.answers()] == ["Ice: a man, who runs.", "Ice: a man sits."]
    assert read.answers("the correct answer is {label}")[1] == "the correct answer is ending2"
    boolq = question_of({"question": "is it", "passage": "p {x}", "answer": False})
    assert boolq.put() + boolq.answers()[boolq.right] == "p {x}\nQuestion: is it?\nAnswer: no"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "x"}, "the columns text, which hold no options; known are answer, instruction;"),
        (_said("What?", "yes"), "does not end with 'Answer format"),
        (_said("What?\n\nAnswer format: true/false", "answer1"), "'answer1' is none of true, false"),
        (_said("What?\n\nAnswer1: a\n\nAnswer format: answer1/answer2", "answer1"), "no option 'Answer2:'"),
        ({"question": "q", "choices": CHOICES, "answerKey": "C"}, "'C' is none of A, B"),
        ({"question": "q", "choices": ["a", "b"], "answerKey": "C"}, "not in the form that its columns promise"),
        ({"ctx": "c", "endings": ["x", "y"], "label": ""}, "label '' is none of the 2 options .*another split"),
        ({"ctx": "c", "endings": "xy", "label": 0}, "the options are 'xy', expected a list"),
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": -1}, "label -1 is none of the 2 options"),
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": 0.5}, "label 0.5 is none of the 2 options"),
        ({"goal": "g", "sol1": float("nan"), "sol2": "y", "label": 0}, "option 1 of 2 is nan, expected a text"),
        ({"question": "q", "passage": "p", "answer": "maybe"}, "label 'maybe' is none of the 2"),
        ({"question": "q", "passage": None, "answer": True}, "the passage is None, expected a text"),
        (_choices("q", ["red"]), "has 1 options, expected 2 to 26"),
        (_choices("q", ["red"] * 27), "has 27 options, expected 2 to 26"),
        (_choices("q", ["red", " "]), "option 2 of 2 is ' ', expected a text"),
        (_choices("q", [1, 2]), "option 1 of 2 is 1, expected a text"),
        (_choices("q", ["red", "blue"], labels="ABC"), "there are 3 labels for 2 options"),
        (_choices("q", ["red", "blue", "green"], labels="AB"), "there are 2 labels for 3 options"),
        (_choices(None, ["red", "blue"]), "the question is None, expected a text"),
        (_choices(" ", ["red", "blue"]), "the question is empty"),
    ],
)
def test_what_is_no_question_is_one_sentence(record, said):
    with pytest.raises(BadInput, match=said) as told:
        question_of(record, "file, row 3")
    assert str(told.value).startswith("file, row 3")


def test_labels_are_numbers_however_they_are_written():
    for label in (1, 1.0, "1", "1.0", " 1"):
        assert question_of({"goal": "g", "sol1": "x", "sol2": "y", "label": label}).right == 1


def test_a_template_that_tells_no_options_apart_is_one_sentence():
    with pytest.raises(BadInput, match=r"' ' writes every option alike; it takes \{option\}"):
        question_of(SISTERS["answers"]).answers(" ")
