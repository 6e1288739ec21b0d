"""The command, from the words typed to the recipes that it leaves."""

import json

import pytest
import torch

import tiny
import tiny_sft
from command import subspace
from subspace_tuning import METHODS, SubspaceConfig
from subspace_tuning.advise import prior, words
from subspace_tuning.advise.filters import Wanted, budget_of
from subspace_tuning.advise.gradients import gradients
from subspace_tuning.advise.prior import LEAD, Predictor, Score, Scores
from subspace_tuning.errors import BadInput
from subspace_tuning.method.catalogue import Entry
from subspace_tuning.run.pretrained import load_model, load_processor
from subspace_tuning.run.recipe import make, read
from subspace_tuning.run.train import calibration_batches, encoded, fit_to_data
from subspace_tuning.sweep.plan import Plan
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.tuner.put_on import put_on

LABELS = "labels=[bad,good]"


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advise")
    tiny.recipe(folder)
    return folder


@pytest.fixture(scope="module")
def advice(there):
    """What the command says of a tiny classifier, with recipes and a page beside."""
    where = ["--data", there / "data", "--task", "classification", LABELS, "batch_size=8"]
    code, out, err = subspace(
        "advise", there / "model", *where, "--budget", "20%", "--serve", "merged", "--memory", "8GB",
        "-o", there / "recipes", "--page", there / "advice.html", "--json",
    )  # fmt: skip
    assert code == 0, err
    return json.loads(out)


def test_three_different_methods_that_have_what_is_asked_for(advice):
    names = [c["method"] if isinstance(c["method"], str) else c["method"]["name"] for c in advice["short_list"]]
    assert len(set(names)) == 3
    for name, c in zip(names, advice["short_list"], strict=True):
        assert Entry.of(name, METHODS[name]).mergeable
        assert c["parameters"] <= advice["budget"]
        assert c["memory"] < 8e9
        assert c["reasons"]
    assert "no map of a weight" in advice["left_out"]["houlsby"]


def test_shares_of_energy(advice):
    assert sum(advice["energy"].values()) == pytest.approx(1.0)
    families = {f["name"]: f for f in advice["families"]}
    assert set(families) >= {"lora", "ssb", "bitfit", "vera"}
    for f in families.values():
        assert 0 <= f["start"] <= 1
        assert f["kappa"] is None or f["start"] <= f["kappa"] + 1e-4
    assert families["ssb"]["kappa"] >= families["ssl"]["kappa"] - 1e-9
    assert advice["rank"]["held_filled"] >= advice["rank"]["held_uniform"]


def test_the_recipes_are_recipes_and_the_sweep_tests_them_beside_lora(there, advice):
    folder = there / "recipes"
    names = sorted(path.name for path in folder.iterdir())
    assert names[-2:] == ["advise-rank-pattern.yaml", "advise-sweep.yaml"]
    assert len(names) == 5
    for name in names[:-1]:
        make(read(folder / name)).resolved()
    plan = Plan(read_sweep(folder / "advise-sweep.yaml"))
    labels = [cell.label for cell in plan.cells]
    assert labels[0].startswith("lora(")
    assert len(labels) in (3, 4)
    assert len({len(cell.candidates) for cell in plan.cells}) == 1


def test_the_pattern_spends_the_budget(there, advice):
    recipe = make(read(there / "recipes" / "advise-rank-pattern.yaml"))
    assert recipe.rank_pattern == advice["pattern"]["rank_pattern"]
    model, _ = load_model(recipe.model, recipe.task_object())
    fields = ("target_modules", "rank_pattern", "alpha_pattern")
    config = SubspaceConfig(method=recipe.method_object(), **{name: getattr(recipe, name) for name in fields})
    trained = sum(p.numel() for p in put_on(model, config).parameters() if p.requires_grad)
    assert 0.5 * advice["budget"] < trained <= advice["budget"]


def test_the_page_says_the_same_and_asks_no_network(there, advice):
    page = (there / "advice.html").read_text()
    for said in advice["words"]:
        assert said.replace("'", "&#x27;") in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_gradients_are_those_of_autograd_and_biases_of_norms_are_among_them(there):
    fields = {"task": "classification", "data": str(there / "data"), "labels": ["bad", "good"], "batch_size": 8}
    recipe = make({**fields, "model": str(there / "model"), "method": "lora", "calibration_batches": 2}).resolved()
    found, task = gradients(recipe, progress=False), recipe.task_object()
    base = load_model(recipe.model, task, recipe.seed)
    fit_to_data(base, recipe)
    batches = calibration_batches(
        recipe, encoded(recipe, task)[0], task.collator(load_processor(recipe.model, task.processor))
    )
    model = base.model.eval()
    sum(model(**batch).loss for batch in batches).div(2).backward()
    assert found.rows == 16
    assert {name for name, seat in found.seats.items() if seat.G is None} >= {"bert.embeddings.LayerNorm"}
    for name, seat in found.seats.items():
        layer = model.get_submodule(name)
        assert (seat.G is not None) == isinstance(layer, torch.nn.Linear)
        if seat.G is not None:
            torch.testing.assert_close(seat.G, layer.weight.grad.T)
        torch.testing.assert_close(seat.g, layer.bias.grad)
    assert len(found.of(METHODS["bitfit"]())) == len(found.seats)
    assert all(seat.G is not None for seat in found.of(METHODS["lora"]()))


def test_a_language_model_gets_advice_in_words(tmp_path):
    tiny_sft.model(tmp_path / "model")
    data = tiny_sft.data(tmp_path / "data")
    words = ["--data", data, "--task", "sft", "batch_size=4", "--parameters", "2000", "--batches", "2"]
    code, out, err = subspace("advise", tmp_path / "model", *words, "--methods", "lora,ssb", "--keep", "forget little")
    assert code == 0, err
    for said in ("water-filling", "rank_pattern={", "\n1. ", "\n3. ", "retention", "kappa"):
        assert said in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--budget", "much"], "share of the model's parameters such as 0.1%"),
        (["--budget", "1%", "--parameters", "5"], "give one of them"),
        (["--budget", "0%"], "such as 0.1%"),
        (["--serve", "vlm"], "--serve is one of merged, vllm, unmerged, quantised, got 'vlm': did you mean 'vllm'?"),
        (["--keep", "all"], "--keep is one of forget little"),
        (["--memory", "much"], "is no amount of memory"),
        (["--methods", "lorra"], "did you mean 'lora'?"),
        (["method=ssb"], "leave out method="),
        (["nonsense=1"], "unknown key 'nonsense'"),
    ],
)
def test_bad_input_is_one_sentence(there, given, said):
    code, out, err = subspace("advise", there / "model", *given)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_what_nobody_can_have_is_told(there):
    where = ["--data", there / "data", "--task", "classification", LABELS, "batch_size=8", "--batches", "1"]
    code, _, err = subspace("advise", there / "model", *where, "--parameters", "1", "--methods", "ssl")
    assert code == 2
    assert "no method has all that is asked for" in err
    assert len(err.strip().splitlines()) == 1


def test_budgets():
    assert budget_of("0.5%", None, 1000) == 5
    assert budget_of(None, 7, 1000) == 7
    assert budget_of(None, None, 1000) == 10
    with pytest.raises(BadInput):
        Wanted(0)


def test_filters_go_by_what_methods_can_do():
    entries = {name: Entry.of(name, METHODS[name]) for name in ("lora", "ssb", "hira")}
    out = {
        (serve, name): Wanted(100, serve).refuses(e, 10, 1.1)
        for name, e in entries.items()
        for serve in ("merged", "vllm", "quantised", "unmerged")
    }
    assert not any(why for (serve, _), why in out.items() if serve in ("merged", "unmerged"))
    assert [bool(out["vllm", name]) for name in entries] == [False, True, True]
    assert [bool(out["quantised", name]) for name in entries] == [False, False, True]
    assert "budget is 100" in Wanted(100).refuses(entries["lora"], 101, None)
    assert "1.20 of the floor" in Wanted(100, speed=1.1).refuses(entries["lora"], 10, 1.2)
    assert "not measured" in Wanted(100, speed=1.1).refuses(entries["lora"], 10, None)


def test_evidence_is_paired_with_lora_on_each_task_and_few_tasks_weigh_less():
    rows = [("a", "lora", 8, 0.5), ("a", "ssb", None, 0.6), ("b", "lora", 8, 0.4), ("b", "ssb", None, 0.6)]
    rows += [("a", "oft", None, 0.7), ("a", "lora", 2, 0.1)]
    known = Scores(Score(*row) for row in rows)
    ssb, oft = known.over_lora("ssb", None), known.over_lora("oft", None)
    assert ssb.mean == pytest.approx(0.15)
    assert ssb.lead == pytest.approx(0.1)
    assert (oft.mean, oft.lead) == (pytest.approx(0.2), pytest.approx(0.1))
    assert known.over_lora("lora", 3).mean == pytest.approx(-0.2)  # b has rank 8 alone
    assert known.without("a").over_lora("oft", None) is None


def predicted(kappa, lead):
    rows = {"kappa": kappa, "parameters": (0.5, 0.2, 0.8), LEAD: lead}
    return [Predictor("all", "score", name, *values) for name, values in rows.items()]


def test_the_command_says_what_the_studies_say_of_kappa():
    leads = predicted((0.9, 0.7, 1.0), (0.4, 0.1, 0.6))
    assert prior.kappa_leads(leads)
    assert "it leads here" in words.verdict(leads)
    no_better = predicted((0.5, 0.2, 0.8), (0.0, -0.3, 0.3))
    assert not prior.kappa_leads(no_better)
    assert "no better than the number of parameters" in words.verdict(no_better)
    nothing = predicted((0.1, -0.3, 0.4), (-0.4, -0.7, 0.0))
    assert "kappa predicted nothing" in words.verdict(nothing)
    assert "filters and the measured tables lead" in words.verdict(nothing)
    assert "not been judged" in words.verdict([])


def test_the_packages_own_tables_are_read():
    assert {row.method for row in prior.scores().rows} >= {"lora", "ssb", "full"}
    assert prior.times()["ssb"] > 0.5
    assert prior.scores().over_lora("ssb", None).points
