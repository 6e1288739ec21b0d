"""Pictures, however they are kept, and the models that classify them."""

import io

import numpy as np
import pandas
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits

import tiny_pictures
from cases import each
from command import subspace
from subspace_tuning.convert.export import export
from subspace_tuning.errors import BadInput
from subspace_tuning.files import onnx, pictures
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import KNOWN, load, task_of

LABELS = tiny_pictures.LABELS
TASK = task_of("image_classification", {"labels": LABELS})


def as_folders(folder, images, labels):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "train" / LABELS[label] / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


def as_parquet(folder, images, labels):
    def png(image):
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    folder.mkdir(exist_ok=True)
    pandas.DataFrame({"image": [png(i) for i in images], "label": labels}).to_parquet(folder / "train.parquet")
    return folder


def as_arrays(folder, images, labels):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "train.npz", image=images, label=labels)
    return folder


def as_paths(folder, images, labels):
    as_folders(folder / "all", images, labels)
    rows = sorted((folder / "all").rglob("*.png"), key=lambda path: path.name)
    table = {"image": [path.relative_to(folder) for path in rows], "label": [path.parent.name for path in rows]}
    pandas.DataFrame(table).to_csv(folder / "train.csv", index=False)
    return folder


@pytest.mark.parametrize("keep", [as_folders, as_parquet, as_arrays, as_paths])
def test_however_pictures_are_kept_they_are_the_same(keep, tmp_path):
    images, labels = tiny_pictures.pictures(10)
    train, held = load(TASK, str(keep(tmp_path / "data", images, labels)))
    assert (len(train), len(held)) == (8, 2)
    read = sorted((np.asarray(pictures.opened(row.held)).tobytes(), row.label) for row in train + held)
    assert read == sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    as_arrays(folder / "data", *tiny_pictures.pictures(64))
    np.savez(
        folder / "data" / "validation.npz", **dict(zip(("image", "label"), tiny_pictures.pictures(24, 1), strict=True))
    )
    return folder


def recipe(home, out, kind="dinov2", **changes):
    if not (home / kind).is_dir():
        tiny_pictures.model(home / kind, kind)
    usual = {"task": "image_classification", "labels": list(LABELS), "data": str(home / "data"), "batch_size": 16}
    how = {"learning_rate": 0.02, "method": "lora", "epochs": 4, "evaluate_every": "end", "save_every": "never"}
    return make({"model": str(home / kind), "output": str(out), **usual, **how, **changes})


@each(kind=list(tiny_pictures.KINDS), method=["lora", "ssb"])
def test_every_kind_of_model_trains_predicts_and_merges(kind, method, home, tmp_path):
    where = {"target_modules": ["convolution"]} if kind == "resnet" else {}  # it has no blocks of matrices
    result = run(recipe(home, tmp_path / "run", kind, method=method, max_steps=4, **where))
    assert set(result.scores) == {"accuracy", "matthews_correlation", "f1"}
    Image.fromarray(tiny_pictures.pictures(1)[0][0]).save(tmp_path / "a.png")
    (told,) = Predictor(tmp_path / "run")([str(tmp_path / "a.png")])
    merge(tmp_path / "run", tmp_path / "merged")
    from transformers import pipeline

    (top, *_) = pipeline("image-classification", str(tmp_path / "merged"))(str(tmp_path / "a.png"))
    assert (top["label"], top["score"]) == (told.answer, pytest.approx(told.score, abs=1e-4))


def test_a_model_that_transformers_has_no_head_for_is_named(home, tmp_path):
    config = transformers.DINOv3ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path / "dinov3")
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "dinov3")
    with pytest.raises(BadInput, match="DINOv3ViTConfig"):
        run(recipe(home, tmp_path / "run", model=str(tmp_path / "dinov3")))


def test_training_helps(home, tmp_path):
    assert run(recipe(home, tmp_path / "run", epochs=10)).score > 0.9


def test_a_run_is_exported_as_a_lora(home, tmp_path):
    run(recipe(home, tmp_path / "run", max_steps=2))
    export(tmp_path / "run", tmp_path / "out", "lora")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_pictures_are_changed_in_training_only_and_alike_in_the_same_step(home, tmp_path):
    how = {"augment": ["flip", "shift"], "max_steps": 3}
    first, again, plain = (
        run(recipe(home, tmp_path / name, **more)) for name, more in (("a", how), ("b", how), ("c", {"max_steps": 3}))
    )
    assert first.scores == again.scores
    heads = [Predictor(tmp_path / name).model.state_dict() for name in "abc"]
    (key,) = [k for k in heads[0] if k.endswith("classifier.modules_to_save.default.weight")]
    assert torch.equal(heads[0][key], heads[1][key])
    assert not torch.equal(heads[0][key], heads[2][key])
    assert plain.steps == 3


def test_pictures_that_are_none_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    for text, said in [
        ("image,label\nx.png,down\n", "there is no picture"),
        ("image,label\n../a,down\n", "leads out of"),
    ]:
        (tmp_path / "data" / "train.csv").write_text(text)
        with pytest.raises(BadInput, match=said):
            load(TASK, str(tmp_path / "data"))
    with pytest.raises(BadInput, match="cannot read the picture"):
        pictures.opened(b"no picture")
    (tmp_path / "nul.jsonl").write_text('{"image": "a\\u0000", "label": "down"}\n')
    with pytest.raises(BadInput, match="NUL character"):
        load(TASK, str(tmp_path / "nul.jsonl"))
    np.savez(tmp_path / "a.npz", image=np.array([{"a": 1}], dtype=object), label=np.zeros(1))
    with pytest.raises(BadInput, match="as arrays"):
        load(TASK, str(tmp_path / "a.npz"))
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="no pictures"):
        load(TASK, str(tmp_path / "none"))


def test_digits_are_those_of_scikit_learn():
    train, held = load(KNOWN["digits"])
    assert (len(train), len(held)) == (1438, 359)
    assert sorted(row.label for row in train + held) == sorted(load_digits().target)
    assert make({"task": "digits", "image_size": 56}).resolved().task_object().image_size == 56
    with pytest.raises(BadInput, match="its own labels"):
        make({"task": "digits", "labels": ["a", "b"]}).task_object()


def test_the_recipe_runs_on_a_tiny_model(tmp_path):
    tiny_pictures.model(tmp_path / "tiny")
    code, out, err = subspace(
        *("train", "recipes/digits.yaml", f"model={tmp_path}/tiny", "max_steps=2", "image_size=16"),
        *("train_samples=32", "eval_samples=16", f"output={tmp_path}/run"),
    )
    assert code == 0, err
    assert "accuracy" in out


def test_constants_of_an_onnx_file():
    """A graph of one product, written out by hand as protocol buffers say."""

    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    W = np.arange(6, dtype="<f4").reshape(2, 3)
    constant = b"".join([field(1, 2), field(1, 3), field(2, 1), field(8, b"W"), field(9, W.tobytes())])
    node = b"".join([field(1, b"x"), field(1, b"W"), field(2, b"y"), field(3, b"/layer/MatMul"), field(4, b"MatMul")])
    constants, products = onnx._read(memoryview(field(7, field(1, node) + field(5, constant))))
    assert products == {"/layer/MatMul": "W"}
    assert np.array_equal(constants["W"], W)
