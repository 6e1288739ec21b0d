"""Rows as people have them by mistake: each ends in one sentence with its place, or is read as what it means."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from transformers import AutoTokenizer, SegformerImageProcessorPil

import tiny
import tiny_lm
import tiny_pictures
import tiny_sounds
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.files import pictures, sounds
from subspace_tuning.files.table import table_of
from subspace_tuning.run.pretrained import bare_model, load_processor
from subspace_tuning.tasks import load, task_of

TWO = {"labels": ["a", "b"]}
SEEN = {"classification": TWO, "token_classification": TWO, "multi_label": {**TWO, "label": "labels"}}


def read(tmp_path, kind, rows, **fields):
    """The rows of a file of them, twice, as training would read them."""
    for part in ("train", "validation"):
        tiny.jsonl(tmp_path / f"{part}.jsonl", rows)
    return load(task_of(kind, {**SEEN.get(kind, {}), **fields}), str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        ("regression", [{"text": "a", "label": 1}, {"text": "b", "label": 1e39}], "line 2: the label is 1e.39"),
        ("regression", [{"text": "a", "label": "1,5"}], "line 1: the label is '1,5', expected a number"),
        ("token_classification", [{"tokens": [], "tags": []}], "no row to train on"),
        ("token_classification", [{"tokens": ["a"], "tags": ["a", "b"]}], "line 1: 1 words and 2 tags"),
        ("token_classification", [{"tokens": ["a", ""], "tags": ["a", "b"]}], "line 1: a word is ''"),
        ("retrieval", [{"query": "a", "text": "x"}, {"query": "b", "text": "x"}], "among two texts"),
        ("classification", [{"text": ["long"] * 99, "label": "a"}], r"line 1: .{0,100}\.\.\., expected a text"),
        ("dpo", [{"prompt": "a", "chosen": "b", "rejected": ""}], "line 1 has no answer: its column 'rejected'"),
        ("sft", [{"question": "a", "answer": "b"}, {"question": "a", "answer": 5}], "line 2: column 'answer' holds 5"),
    ],
)
def test_rows_that_are_none_are_named(tmp_path, kind, rows, said):
    with pytest.raises(BadInput, match=said):
        read(tmp_path, kind, rows)


def test_pairs_that_max_length_cuts_away_are_told_and_an_error_where_all_are():
    dpo, tokenizer = task_of("dpo", {}), tiny_lm.tokenizer()
    rows = [{"prompt": "z" * size, "chosen": "yes", "rejected": "no"} for size in (4, 40)]
    with pytest.warns(UserWarning, match=r"1 of 2 rows: answer cut away by max_length \((chosen|rejected)\)") as told:
        [pair] = dpo.encode(rows, tokenizer, 20)
    assert pair["prompt_ids"] == tokenizer.encode("zzzz")
    assert len(told) == 2
    turns = [{"role": role, "content": "b" * size} for role, size in (("assistant", 1), ("user", 90), ("assistant", 1))]
    uneven = [turns[:1], turns], [turns, turns[:1]]
    asked = [{"role": "user", "content": "a"}]
    rows = [{"prompt": asked, "chosen": better, "rejected": worse} for better, worse in uneven]
    with (
        pytest.warns(UserWarning, match="cut away"),
        pytest.raises(BadInput, match="max_length=60 cuts away an answer of every row"),
    ):
        dpo.encode(rows, tokenizer, 60)


def test_weights_that_are_none_are_told_what_they_could_be():
    with pytest.raises(BadInput, match="'balanced', or Input should be greater than 0"):
        task_of("classification", {**TWO, "class_weights": [-1, 2]})


def test_tags_that_begin_with_i_are_an_entity():
    """As seqeval and CoNLL's own script count them."""
    task = task_of("token_classification", {"labels": ["O", "B-X", "I-X"]})
    judged = [{"about": {"row": 0, "places": [0, 1, 2], "words": [0, 1, 2], "size": 3, "tags": [2, 0, 2]}}]
    logits = np.eye(3)[[[1, 0, 2]]]
    assert task.scores(logits, None, judged)["f1"] == 1


def test_a_question_without_a_word_to_answer_with_has_no_answer(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny.model(tmp_path))
    task = task_of("question_answering")
    asked = {"question": ["was the film"] * 2, "context": ["", "good"], "answers": [[]] * 2}
    judged = task.encode(task.rows(table_of("rows", asked)), tokenizer, 16)
    logits = np.zeros((len(judged), 16))
    assert task.scores((logits, logits), None, judged) == {"f1": 1, "exact_match": 1}


def test_rows_longer_than_the_model_end_in_one_sentence(tmp_path):
    """In `train`, and before it in `data`, where a model is named."""
    tiny.model(tmp_path / "model")
    tiny.jsonl(tmp_path / "rows.jsonl", [{"text": "good " * 90, "label": i % 2} for i in range(10)])
    words = ["max_length=64", "labels=[a,b]", "--task", "classification", "--model", tmp_path / "model"]
    for command in (["data", tmp_path / "rows.jsonl"], ["train", f"data={tmp_path}/rows.jsonl"]):
        code, _, err = subspace(*command, *words)
        assert (code, err.count("\n")) == (2, 1), err
        assert "64 tokens, more than the 32 positions" in err


# --- pictures --------------------


def saved(image, **how):
    image.save(buffer := io.BytesIO(), "PNG", **how)
    return buffer.getvalue()


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "kept",
    [
        saved(Image.fromarray(GREY.astype(np.uint16) * 257)),
        saved(Image.fromarray(GREY).convert("P")),
        saved(Image.merge("RGBA", [Image.fromarray(GREY)] * 4)),
        GREY.astype(np.int64),
        GREY.astype(float),
        GREY[..., None],
        np.stack([GREY] * 3, -1).astype(np.int32),
    ],
    ids=["16 bits", "palette", "transparent", "long", "float", "channel", "colours"],
)
def test_however_a_picture_is_kept_it_is_the_same(kept):
    assert np.array_equal(np.asarray(pictures.opened(kept)), np.stack([GREY] * 3, -1))


def test_a_picture_stands_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    tall = saved(Image.fromarray(GREY[:4]), exif=exif)
    assert np.array_equal(np.asarray(pictures.opened(tall, "L")), np.rot90(GREY[:4], -1))
    assert pictures.size(tall) == (16, 4)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (GREY / 255, "from 0 to 1, or not whole"),
        (GREY.astype(int) - 1, "from -1 to 254"),
        (GREY.astype(int) * 2, "from 0 to 510"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), "a"), "no numbers"),
        (np.zeros((0, 4, 3), np.uint8), "another shape"),
        (np.zeros((3, 16, 16), np.uint8), "another shape"),
        (b"no picture", "cannot identify"),
    ],
)
def test_what_is_no_picture_is_told_why(kept, said):
    for look in (pictures.opened, pictures.check):
        with pytest.raises(BadInput, match=f"cannot read the picture .*{said}"):
            look(kept)


@pytest.mark.parametrize("kind", ["image_classification", "segmentation", "audio_classification", "ctc"])
def test_a_file_that_is_none_is_named_with_its_row_before_training(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(GREY)))
    wavfile.write(tmp_path / "a.wav", 16_000, np.ones(99, np.int16))
    (tmp_path / "b").write_bytes(b"hello")
    column, good = ("image", "a.png") if kind in ("image_classification", "segmentation") else ("audio", "a.wav")
    rows = [{column: name, "mask": "a.png", "label": "a", "text": "a"} for name in (good, "b")]
    fields = {} if kind == "ctc" else TWO
    with pytest.raises(BadInput, match=r"train\.jsonl, line 2: cannot read the (picture|sound) .*b: "):
        read(tmp_path, kind, rows, **fields)


@pytest.mark.parametrize(("kind", "size"), [("dinov2", 5), ("vit", 32)])
def test_pictures_of_a_size_that_the_model_cannot_read_are_refused(tmp_path, kind, size):
    model = str(tiny_pictures.model(tmp_path / "model", kind))
    task = task_of("image_classification", {**TWO, "image_size": size})
    processor = load_processor(model, task.processor)
    inputs = task.encode(task.rows(table_of("rows", {"image": [GREY], "label": ["a"]})), processor, None)
    with pytest.raises(BadInput, match=rf"cannot read pictures of this size \(pixel_values 1 x 3 x {size} x {size}"):
        task.check(bare_model(model, task, processor), processor, inputs)


@pytest.mark.parametrize(
    ("image", "label", "said"),
    [
        (np.array(5), np.array(1), "'image' is a single value"),
        (np.zeros((2, 4, 4), np.uint8), np.eye(2), r"row 1: the label array\(\[1\., 0\.\]\) is outside"),
    ],
)
def test_arrays_that_are_no_rows_are_named(tmp_path, image, label, said):
    np.savez(tmp_path / "train.npz", image=image, label=label)
    with pytest.raises(BadInput, match=said):
        load(task_of("image_classification", TWO), str(tmp_path))


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory):
    """What a SegFormer of ADE20K's makes of (image, mask): by the checks that training does, and as labels."""
    folder = tiny_pictures.segformer(tmp_path_factory.mktemp("segformer"))
    SegformerImageProcessorPil(size={"height": 32, "width": 32}, do_reduce_labels=True).save_pretrained(folder)
    task = task_of("segmentation", TWO)
    processor = load_processor(str(folder), task.processor)
    model = bare_model(str(folder), task, processor)

    def read(image, mask):
        inputs = task.encode(task.rows(table_of("rows", {"image": [image], "mask": [mask]})), processor, None)
        task.check(model, processor, inputs)
        return np.asarray(task.collator(processor)(inputs)["labels"])[0]

    return read


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.int16, float, bool])
def test_masks_of_any_numbers_are_counted_from_0(segmenting, kind):
    """Also where the model's own processor counts from 1."""
    mask = np.random.default_rng(0).integers(0, 2, (32, 32))
    assert np.array_equal(segmenting(np.zeros((32, 32, 3), np.uint8), mask.astype(kind)), mask)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((24, 32), np.uint8), "24 x 32 points belongs to a picture of 32 x 24"),
        (np.full((32, 24), -1), "has the number -1"),
        (np.full((32, 24), 255), "every point of a mask is 255"),
        (np.full((32, 24), 2), "has the number 2"),
        (np.full((32, 24), 0.5), "or not whole"),
        (np.zeros((32, 24, 3), np.uint8), "one number a point"),
    ],
)
def test_masks_that_do_not_fit_are_refused(segmenting, mask, said):
    with pytest.raises(BadInput, match=said):
        segmenting(np.zeros((32, 24, 3), np.uint8), mask)


# --- sounds --------------------


def wav(array, rate=16_000):
    wavfile.write(buffer := io.BytesIO(), rate, array)
    return buffer.getvalue()


def test_a_sound_without_a_rate_or_with_samples_that_are_none_is_named():
    still = bytearray(wav(np.ones(99, np.int16)))
    still[24:32] = bytes(8)
    for broken, said in ((bytes(still), "0 samples a second"), (wav(np.full(9, np.nan, np.float32)), "no finite")):
        with pytest.raises(BadInput, match=said):
            sounds.samples(broken, 16_000)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 16_001])
def test_how_long_a_sound_is_needs_no_samples(rate):
    sound = wav(np.ones(1000, np.int16), rate)
    assert sounds.length(sound, 16_000) == len(sounds.samples(sound, 16_000))


@pytest.mark.parametrize(
    ("kind", "size", "text", "said"),
    [
        ("ctc", 3200, "low" * 9, "has 4 frames, and its text takes 27"),
        ("ctc", 3200, "oooo", "takes 7"),
        ("ctc", 10, "o", "frames"),
        ("audio_classification", 10, "", "too few for the model"),
    ],
)
def test_a_sound_that_is_too_short_is_refused(tmp_path, kind, size, text, said):
    model = str(tiny_sounds.wav2vec2(tmp_path / "model"))
    task = task_of(kind, {} if kind == "ctc" else TWO)
    processor = load_processor(model, task.processor)
    columns = {"audio": [wav(np.ones(size, np.int16))], "text": [text or "low"], "label": ["a"]}
    inputs = task.encode(task.rows(table_of("rows", columns)), processor, None)
    with pytest.raises(BadInput, match=said):
        task.check(bare_model(model, task, processor), processor, inputs)
