"""Pictures that are changed in training: by code of our own, and by transforms of torchvision's."""

import builtins
import re
import sys
from types import ModuleType

import pytest
import torch
from test_image_classification import as_arrays, recipe

import tiny_pictures
from subspace_tuning.errors import BadInput
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.augment import Scaling, change

PLAIN = Scaling(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


def test_augmentation_moves_and_mirrors():
    x = torch.arange(16.0).repeat(64, 1, 16, 1)  # every row 0 ... 15
    mirrored = change("flip")(x, PLAIN)
    assert {tuple(row[0, 0].tolist()) for row in mirrored} == {tuple(range(16)), tuple(range(15, -1, -1))}
    moved = change("shift")(x, PLAIN)
    assert {int(row[0, 0, 8]) for row in moved} == {6, 7, 8, 9, 10}


class Transform(torch.nn.Module):
    """As torchvision's, which seldom goes with a CPU's torch."""

    def __init__(self, p=0.5, size=None):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError("p is a probability")
        self.p, self.size, self.seen = p, size, []

    def forward(self, x):
        self.seen.append(x)
        x = 1 - x if torch.rand(1) < self.p else x
        return x if self.size is None else x[:, : self.size, : self.size]


@pytest.fixture
def v2(monkeypatch):
    """A stand-in for torchvision.transforms.v2."""
    made = [ModuleType(name) for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")]
    made[2].Transform, made[2].Lambda, made[1].v2 = Transform, Transform, made[2]
    made[2].RandomInvert = type("RandomInvert", (Transform,), {})
    made[2].Image, made[2].query_size = dict, print  # no transforms
    for module in made:
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_transform_of_torchvision_sees_each_picture_from_0_to_1(v2):
    scaling = Scaling(torch.tensor([0.5]).view(1, 1, 1), torch.tensor([0.25]).view(1, 1, 1))
    shown = torch.rand(64, 1, 4, 4)
    got = change("RandomInvert(p=0.5)")((shown - 0.5) / 0.25, scaling) * 0.25 + 0.5
    inverted = [torch.allclose(a, 1 - b, atol=1e-6) for a, b in zip(got, shown, strict=True)]
    kept = [torch.allclose(a, b, atol=1e-6) for a, b in zip(got, shown, strict=True)]
    assert all(a != b for a, b in zip(inverted, kept, strict=True))
    assert any(inverted)
    assert any(kept)


def test_a_run_with_a_transform_of_torchvision(v2, tmp_path):
    as_arrays(tmp_path / "data", *tiny_pictures.pictures(32))
    how = {"augment": ["flip", "RandomInvert(p=1.0)"], "max_steps": 2}
    first, again = (run(recipe(tmp_path, tmp_path / name, **how)) for name in "ab")
    assert first.scores == again.scores


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("flop", "torchvision"),
        ("RandomInvet", "did you mean 'RandomInvert'"),
        ("Lambda(lambd=1)", "no transform of torchvision"),
        ("Image()", "no transform of torchvision"),
        ("query_size", "no transform of torchvision"),
        ("RandomInvert(p=2)", "p is a probability"),
        ("RandomInvert(q=2)", "unexpected keyword"),
        ("RandomInvert(0.5)", "neither flip, shift nor"),
        ("RandomInvert(p=open('x'))", "neither flip, shift nor"),
        ("__import__('os').getcwd()", "neither flip, shift nor"),
        ("", "neither flip, shift nor"),
    ],
)
def test_what_is_no_augmentation_is_refused(v2, told, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        task_of("image_classification", {"labels": ["a", "b"], "augment": [told]})


def test_a_transform_that_changes_the_size_is_refused(v2):
    with pytest.raises(BadInput, match=r"another size than \[4, 4\]"):
        change("RandomInvert(size=3)")(torch.rand(2, 1, 4, 4), PLAIN)


@pytest.mark.parametrize("error", [ImportError("none"), RuntimeError("operator torchvision::nms does not exist")])
def test_a_torchvision_that_cannot_be_imported_is_said(monkeypatch, error):
    def fail(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise error
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(BadInput, match="that goes with torch"):
        change("RandAugment")
