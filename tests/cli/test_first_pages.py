"""The pages that people read first: what they show follows from the methods."""

import re
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import peft
import pytest
import torch

from subspace_tuning import docs
from subspace_tuning.pages.choose import NEEDS
from subspace_tuning.pages.ellipses import SHOWN, W, ellipses, phi_t
from subspace_tuning.testing.law import relative

ROOT = Path(__file__).parents[2]


def test_the_committed_picture_is_the_one_that_the_methods_make():
    assert (ROOT / docs.ELLIPSES).read_text(encoding="utf-8") == ellipses(), "run `make docs`"
    ElementTree.fromstring(ellipses())


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.title)
def test_a_picture_goes_from_the_weight_to_what_the_method_makes_of_it(shown):
    assert torch.equal(phi_t(shown, 0.0), W)
    assert relative(phi_t(shown, 1.0), W) > 0.1
    assert 0 < relative(phi_t(shown, 0.5), W) < relative(phi_t(shown, 1.0), W)


def test_what_a_picture_says_is_so():
    made = {shown.title: phi_t(shown, 1.0) for shown in SHOWN}
    values, turned = torch.linalg.svdvals(W), torch.linalg.svdvals(made["OFT"])
    torch.testing.assert_close(turned, values)
    U = torch.linalg.svd(W).U
    stretched = U.T @ made["SAM-PARSER"] @ torch.linalg.svd(W).Vh.T
    torch.testing.assert_close(stretched, torch.diag(stretched.diagonal()), atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(made["LoRA, r = 1"] - W) == 1
    torch.testing.assert_close(made["SSL"] / W, (made["SSL"] / W)[:, :1].expand(2, 2))
    torch.testing.assert_close(made["(IA)3"] / W, (made["(IA)3"] / W)[:1].expand(2, 2))


@pytest.mark.parametrize(("path", "words"), docs.CHOOSE.items(), ids=["en", "zh"])
def test_every_method_and_every_need_is_on_the_page(path, words):
    page = (ROOT / path).read_text(encoding="utf-8")
    assert all(f"| [`{entry.name}`]({words.root}methods.md#{entry.name}) |" in page for entry in docs.entries())
    assert [need.key for need in NEEDS] == list(words.needs)
    for told in words.needs.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| {told} |"))
        assert "methods.md#" in row


def test_evidence_is_that_of_the_studies():
    page = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {docs.ENGLISH.needs['tuned']} |"))
    assert "[`ssb`](methods.md#ssb) (98.4 % [97.7, 99.5])" in row


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_one_method_beside_pefts_files_is_counted(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 130
    (told,) = (part for part in text.split("\n\n") if "(IA)3" in part and "PEFT 0" in part)
    of, files, lines, *parts = re.findall(
        r"(?<![.\w])\d+(?:\.\d+\.\d+)?(?![.\w])", told.replace("(IA)3", "").replace("\n", " ")
    )
    assert f"peft=={of}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ours = len((ROOT / "src/subspace_tuning/methods/reconstruct/ia3.py").read_text(encoding="utf-8").splitlines())
    assert parts[-2:] == ["1", str(ours)]
    if version("peft") == of:
        folder = Path(peft.__file__).parent / "tuners" / "ia3"
        counts = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")}
        assert (int(files), int(lines)) == (len(counts), sum(counts.values()))
        assert all(f"{name} {count}" in told.replace("`", "") for name, count in counts.items())
