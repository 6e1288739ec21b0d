"""Sounds, however they are kept, and the models that say what is in them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.io import wavfile
from torch.nn import functional as F

import tiny_sounds
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.files.sounds import samples
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.pretrained import load_model, load_processor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import load, task_of

ROOT = Path(__file__).parents[2]
RATE = tiny_sounds.RATE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    tiny_sounds.data(folder / "data")
    tiny_sounds.wav2vec2(folder / "wav2vec2")
    tiny_sounds.whisper(folder / "whisper")
    return folder


def recipe(home, out, task, base, **changes):
    told = yaml.safe_load((ROOT / "recipes" / f"{task}.yaml").read_text(encoding="utf-8"))
    how = {"learning_rate": 0.02, "method": "lora", "epochs": 4, "batch_size": 8, "evaluate_every": "end"}
    where = {"model": str(home / base), "data": str(home / "data"), "output": str(out), "save_every": "never"}
    return make({**told, **how, **where, **changes})


def wav(array, rate=RATE):
    wavfile.write(buffer := io.BytesIO(), rate, array)
    return buffer.getvalue()


TONE = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


@pytest.mark.parametrize(
    "kept",
    [
        wav((TONE * 32767).astype(np.int16)),
        wav((TONE * 127 + 128).astype(np.uint8)),
        wav((TONE * (2**31 - 1)).astype(np.int32)),
        wav(TONE.astype(np.float32)),
        wav(np.stack([TONE * 2, TONE * 0], 1).astype(np.float32)),
        wav(np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32), 44_100),
        TONE,
        TONE.astype(np.float32)[:, None],
    ],
    ids=["16 bits", "8 bits", "32 bits", "float", "stereo", "44.1 kHz", "array", "column"],
)
def test_however_a_sound_is_kept_it_is_the_same(kept):
    found = samples(kept, RATE)
    assert (found.dtype, found.shape) == (np.float32, (RATE,))
    np.testing.assert_allclose(found[200:-200], TONE[200:-200], atol=0.02)


@pytest.mark.parametrize("broken", [b"no sound", wav(np.zeros(0, np.int16)), np.array(["a"]), np.zeros((2, 3, 4))])
def test_what_is_no_sound_is_named(broken):
    with pytest.raises(BadInput, match="sound"):
        samples(broken, RATE)


def test_audio_classification(home, tmp_path):
    result = run(recipe(home, tmp_path / "run", "audio_classification", "wav2vec2", epochs=20))
    assert set(result.scores) == {"accuracy", "matthews_correlation", "f1"}
    assert result.score > 0.9, "two tones, told apart by any model"
    merge(tmp_path / "run", tmp_path / "merged")
    from transformers import pipeline

    (told,) = Predictor(tmp_path / "run")([str(home / "data" / "validation1.wav")])
    heard = samples(home / "data" / "validation1.wav", RATE)
    (top, *_) = pipeline("audio-classification", str(tmp_path / "merged"))({"raw": heard, "sampling_rate": RATE})
    assert (top["label"], top["score"]) == (told.answer, pytest.approx(told.score, abs=1e-4))


def test_folders_of_sounds_are_classes(home, tmp_path):
    for i, name in enumerate(tiny_sounds.SAYS * 3):
        place = tmp_path / "data" / name / f"{i}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((home / "data" / f"train{i}.wav").read_bytes())
    train, held = load(task_of("audio_classification", {"labels": tiny_sounds.SAYS}), str(tmp_path / "data"))
    assert (len(train), len(held)) == (5, 1)
    assert all(row.held.parent.name == tiny_sounds.SAYS[row.label] for row in train + held)


def test_whisper_writes_what_it_heard(home, tmp_path):
    how = {"method": "full", "learning_rate": 0.01, "epochs": 30, "max_new_tokens": 8}
    result = run(recipe(home, tmp_path / "run", "speech_to_text", "whisper", **how))
    assert (result.metric, set(result.scores)) == ("one_minus_wer", {"one_minus_wer", "one_minus_cer"})
    assert result.score > 0.9, "two words, one a tone; always the same word has 0.5"
    code, out, err = subspace("predict", tmp_path / "run", home / "data" / "validation1.wav", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["answer"] == "high"


def test_a_method_on_whisper_trains_and_merges(home, tmp_path):
    run(recipe(home, tmp_path / "run", "speech_to_text", "whisper", method="ssb", max_steps=2, max_new_tokens=4))
    merged = merge(tmp_path / "run", tmp_path / "merged")
    predictor = Predictor(tmp_path / "run")
    task = predictor.task
    batch = task.collator(predictor.tokenizer)(
        task.encode(task.questions([str(home / "data/train0.wav")], [""]), None, None)
    )
    start = torch.tensor([[1]])
    with torch.inference_mode():
        want = predictor.model(**batch, decoder_input_ids=start).logits
        found = load_model(str(merged), task).model.eval()(**batch, decoder_input_ids=start).logits
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_whispers_labels_are_its_words_and_their_end(home):
    processor = load_processor(str(home / "whisper"), "AutoProcessor")
    labels = task_of("speech_to_text").labels_in("low", processor)
    told = processor.tokenizer.convert_ids_to_tokens(labels)
    assert told == ["<|notimestamps|>", "l", "o", "w", "<|endoftext|>"]


def test_a_sound_that_is_longer_than_whisper_hears_is_refused(home, tmp_path):
    tiny_sounds.data(tmp_path / "data", {"train": 5, "validation": 1})
    wavfile.write(tmp_path / "data" / "train3.wav", RATE, np.zeros(2 * RATE, np.int16))
    with pytest.raises(BadInput, match=r"2\.0 seconds, and the model hears 1"):
        run(recipe(home, tmp_path / "run", "speech_to_text", "whisper", data=str(tmp_path / "data")))


def test_ctc_is_torchs_and_what_it_says_is_the_pipelines(home, tmp_path):
    result = run(recipe(home, tmp_path / "run", "ctc", "wav2vec2", max_steps=2))
    assert set(result.scores) == {"one_minus_wer", "one_minus_cer"}
    predictor = Predictor(tmp_path / "run")
    task, processor = predictor.task, predictor.tokenizer
    _, rows = load(task, str(home / "data"))
    inputs = task.encode(rows[:3], processor, None)
    batch = task.collator(processor)(inputs)
    with torch.inference_mode():
        said = predictor.model(**batch)
    letters = [torch.tensor(row["labels"]) for row in inputs]
    sizes = torch.tensor([len(row) for row in letters])
    logs = said.logits.log_softmax(-1).transpose(0, 1)
    want = F.ctc_loss(logs, torch.cat(letters), torch.full((3,), len(logs)), sizes, blank=0, reduction="mean")
    torch.testing.assert_close(said.loss, want)
    merge(tmp_path / "run", tmp_path / "merged")
    path = home / "data" / "validation1.wav"
    (told,) = predictor([str(path)])
    found = load_model(str(tmp_path / "merged"), task).model.eval()
    heard = processor(samples(path, RATE), sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        assert told.answer == processor.decode(found(**heard).logits[0].argmax(-1))


def test_ctc_learns_which_word_is_said(home, tmp_path):
    """Half of the sounds are each word's: always the same one has 0.5, and nothing, as a fresh model says, has 0."""
    how = {"method": "full", "learning_rate": 0.01, "epochs": 20}
    fresh = run(recipe(home, tmp_path / "fresh", "ctc", "wav2vec2", **{**how, "learning_rate": 1e-9}, max_steps=1))
    result = run(recipe(home, tmp_path / "run", "ctc", "wav2vec2", **how))
    assert fresh.score < 0.1 < 0.9 < result.score
    told = Predictor(tmp_path / "run")([str(home / "data" / f"validation{i}.wav") for i in range(2)])
    assert [answer.answer for answer in told] == list(tiny_sounds.SAYS)


def test_error_rates_are_jiwers_and_frames_that_pad_are_blank(home):
    processor = load_processor(str(home / "wav2vec2"), "AutoProcessor")
    task = task_of("ctc")
    ids = processor.tokenizer("low")["input_ids"]
    rows = [{"about": "low"}, {"about": "low high"}]
    frames = np.array([[ids[0], 0, ids[1], ids[1], 0, ids[2]], [*ids, -100, -100, -100]])
    found = task.parts(processor, [], rows)["compute_metrics"](type("Found", (), {"predictions": frames}))
    assert found == {"one_minus_wer": pytest.approx(2 / 3), "one_minus_cer": pytest.approx(1 - 5 / 11)}


def test_what_cannot_be_is_said(home, tmp_path):
    tiny_sounds.data(tmp_path / "data", {"train": 5, "validation": 1})
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write('{"audio": "train1.wav", "text": "LOW?"}\n')
    with pytest.raises(BadInput, match=r"does not know every letter of 'LOW\?'"):
        run(recipe(home, tmp_path / "run", "ctc", "wav2vec2", data=str(tmp_path / "data")))
    (tmp_path / "data" / "train.jsonl").write_text('{"audio": "nowhere.wav", "text": "low"}\n')
    with pytest.raises(BadInput, match="line 1: there is no sound"):
        load(task_of("ctc"), str(tmp_path / "data"))
    (tmp_path / "data" / "train.jsonl").write_text('{"audio": "train1.wav", "text": " "}\n')
    with pytest.raises(BadInput, match="nothing is said"):
        load(task_of("ctc"), str(tmp_path / "data"))


def test_without_jiwer_it_is_said_before_training(home, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(BadInput, match=r"pip install 'subspace-tuning\[speech\]'"):
        run(recipe(home, tmp_path / "run", "ctc", "wav2vec2"))
