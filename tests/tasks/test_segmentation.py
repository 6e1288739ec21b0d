"""Pictures whose points have classes."""

import io
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import transformers as hf
import yaml
from PIL import Image

import tiny_pictures
from subspace_tuning.errors import BadInput
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import load, task_of
from subspace_tuning.tasks.metrics import Undefined

ROOT = Path(__file__).parents[2]
LABELS = ("dark", "light")


def scenes(size, seed=0):
    """A light rectangle on dark, and where it is: (size, 32, 32, 3) and (size, 32, 32)."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((size, 32, 32), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, 16, 2)
        mask[top : top + 16, left : left + 16] = 1
    images = np.clip(masks[..., None] * 150 + 50 + rng.normal(0, 20, (size, 32, 32, 3)), 0, 255)
    return images.astype(np.uint8), masks


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tiny_pictures.segformer(folder / "model")
    (folder / "data").mkdir()
    for part, size, seed in (("train", 32, 0), ("validation", 12, 1)):
        images, masks = scenes(size, seed)
        np.savez(folder / "data" / f"{part}.npz", image=images, mask=masks)
    return folder


def recipe(home, out, **changes):
    told = yaml.safe_load((ROOT / "recipes" / "segmentation.yaml").read_text(encoding="utf-8"))
    where = {"model": str(home / "model"), "data": str(home / "data"), "output": str(out)}
    how = {"learning_rate": 0.02, "method": "lora", "epochs": 10, "batch_size": 8, "evaluate_every": "end"}
    return make({**told, **where, **how, "save_every": "never", **changes})


def test_a_tiny_segformer_finds_the_light(home, tmp_path):
    result = run(recipe(home, tmp_path / "run"))
    assert (result.metric, set(result.scores)) == ("mean_iou", {"mean_iou", "point_accuracy"})
    assert result.score > 0.7, "all dark has 0.375"
    Image.fromarray(scenes(1, 2)[0][0]).save(tmp_path / "a.png")
    (told,) = Predictor(tmp_path / "run")([str(tmp_path / "a.png")])
    assert told.answer.startswith("dark 0.")
    merged = hf.AutoModelForSemanticSegmentation.from_pretrained(merge(tmp_path / "run", tmp_path / "merged")).eval()
    predictor = Predictor(tmp_path / "run")
    inputs = predictor.tokenizer([Image.open(tmp_path / "a.png")], return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(merged(**inputs).logits, predictor.model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_however_scenes_are_kept_they_are_the_same(home, tmp_path):
    images, masks = scenes(5)
    task = task_of("segmentation", {"labels": LABELS})

    def png(array):
        Image.fromarray(array).save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    rows = []
    for i, pair in enumerate(zip(images, masks, strict=True)):
        names = [f"{i}-{what}.png" for what in ("image", "mask")]
        for name, array in zip(names, pair, strict=True):
            (tmp_path / name).write_bytes(png(array))
        rows.append(names)
    pandas.DataFrame(rows, columns=["image", "mask"]).to_csv(tmp_path / "train.csv", index=False)
    kept = {"image": [{"bytes": png(i)} for i in images], "mask": [{"bytes": png(m)} for m in masks]}
    pandas.DataFrame(kept).to_parquet(tmp_path / "train.parquet")
    np.savez(tmp_path / "train.npz", image=images, mask=masks)
    processor = hf.AutoImageProcessor.from_pretrained(home / "model")
    for name in ("train.csv", "train.parquet", "train.npz"):
        read = task.read(tmp_path / name)
        batch = task.collator(processor)(task.encode(read, processor, None))
        assert np.array_equal(batch["labels"], masks)
        assert batch["pixel_values"].shape == (5, 3, 32, 32)


def test_scores_are_those_of_the_points_that_count():
    task = task_of("segmentation", {"labels": ["a", "b", "c"]})
    labels, said = np.array([[[0, 0, 1, 255]]]), np.array([[[0, 1, 1, 2]]])
    with pytest.warns(Undefined, match="mean_iou is undefined: no point is 'c'"):
        assert task.scores(said, labels) == {"mean_iou": 1 / 2, "point_accuracy": pytest.approx(2 / 3)}


def test_points_of_weight_one_have_the_models_own_loss(home):
    task = task_of("segmentation", {"labels": LABELS, "class_weights": [1, 1]})
    model = hf.AutoModelForSemanticSegmentation.from_pretrained(home / "model", **task.config()).eval()
    images, masks = scenes(4)
    masks[:, :5] = 255
    batch = hf.AutoImageProcessor.from_pretrained(home / "model")([*images], [*masks], return_tensors="pt")
    said = model(**batch)
    torch.testing.assert_close(task.weighted_loss(said.logits, batch["labels"], torch.ones(2)), said.loss)


def test_a_loss_weighs_as_much_as_it_has_points_that_count(home):
    task = task_of("segmentation", {"labels": LABELS})
    model = hf.AutoModelForSemanticSegmentation.from_pretrained(home / "model", **task.config()).eval()
    images, masks = scenes(4)
    masks[:3, 3:] = 255
    whole = dict(hf.AutoImageProcessor.from_pretrained(home / "model")([*images], [*masks], return_tensors="pt"))
    parts = [{key: value[rows] for key, value in whole.items()} for rows in (slice(0, 3), slice(3, 4))]
    shares = [model(**part).loss * task.averaged(part) for part in parts]
    torch.testing.assert_close(model(**whole).loss, sum(shares) / task.averaged(whole))


def test_classes_of_points_count_alike_where_they_are_balanced(home, tmp_path):
    """Pictures that say nothing, one in eight of which is all light: as likely as it is heavy."""
    masks = np.repeat(np.arange(16) % 8 == 0, 32 * 32).reshape(16, 32, 32).astype(np.uint8)
    masks[:, 0] = 255
    for part in ("train", "validation"):
        np.savez(tmp_path / f"{part}.npz", image=np.full((16, 32, 32, 3), 100, np.uint8), mask=masks)
    how = {"data": str(tmp_path), "method": "head", "batch_size": 16, "epochs": 40, "learning_rate": 0.05}
    for weights, share in ((None, 1 / 8), ("balanced", 1 / 2)):
        run(recipe(home, out := tmp_path / str(weights), **how, class_weights=weights))
        predictor = Predictor(out)
        with torch.inference_mode():
            logits = predictor.model(
                predictor.tokenizer([np.full((32, 32, 3), 100, np.uint8)], return_tensors="pt")["pixel_values"]
            ).logits
        assert logits.softmax(1)[:, 1].mean().item() == pytest.approx(share, abs=0.04)


def test_masks_that_are_none_are_named(home, tmp_path):
    images, masks = scenes(5)
    for broken, said in ((masks + 1, "the number 2, and there are 2 labels"), (images, "one number a point")):
        np.savez(tmp_path / "train.npz", image=images, mask=broken)
        with pytest.raises(BadInput, match=said):
            run(recipe(home, tmp_path / "run", data=str(tmp_path)))
    np.savez(tmp_path / "train.npz", image=images)
    with pytest.raises(BadInput, match="has no array 'mask'"):
        load(task_of("segmentation", {"labels": LABELS}), str(tmp_path))
