"""A sweep of language models: the base beside the others, tuned on held-out rows, and columns of what was kept."""

from pathlib import Path

import tiny_sft
from subspace_tuning.run import train
from subspace_tuning.sweep.recipe import make
from subspace_tuning.sweep.results import gather
from subspace_tuning.sweep.sweep import Sweep


def values(tmp_path):
    own = tiny_sft.recipe(tmp_path, data=str(tiny_sft.data(tmp_path / "data", tiny_sft.choices, train=20)))
    kept = str(tiny_sft.write(tmp_path / "texts.jsonl", [{"text": "the cat sat"}]))
    base = {k: v for k, v in own.items() if k not in ("task", "method", "output", "model", "learning_rate")}
    base |= {"form": "cloze", "evaluate": [{"judge": "multiple_choice"}]}
    base |= {"retention": [{"judge": "bits_per_byte", "data": kept, "name": "some texts"}]}
    tuning = {"factors": [0.3, 1], "seeds": [17], "fields": {"eval_samples": 3}}
    methods = ["none", "full", {"method": {"name": "lora", "r": 2}, "mpc": "o"}]
    return {
        **{"output": str(tmp_path / "sweep"), "base": base, "models": [own["model"]], "tasks": ["sft"]},
        **{"methods": methods, "seeds": [0, 1], "tuning": tuning},
    }


def test_the_base_is_not_tuned_and_tuning_sees_held_out_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSPACE_CACHE", str(tmp_path / "cache"))
    sweep = Sweep(make(values(tmp_path)))
    assert {stage.name: stage.total for stage in sweep.stages()} == {"tuning": 4, "final": 6}
    for cell in sweep.plan.cells:
        for run in sweep.plan.tuning_runs(cell):
            result = train.run(run.recipe)
            assert {v["rows"] for v in result.verdicts.values()} == {3}
            assert result.retention == {}
        if cell.takes_steps:
            sweep.choices.make(cell)
        for run in sweep.final_runs(cell):
            assert {v["rows"] for v in train.run(run.recipe).verdicts.values()} == {8}
    assert all(stage.missing == 0 for stage in sweep.stages())
    runs = gather(Path(sweep.recipe.output))
    finals = runs[runs.kind == "final"]
    assert len(runs) == 10
    assert set(finals.method) == {"none", "full", "lora+mpc_o"}
    assert (finals[finals.method == "none"].change_some_texts == 0).all()
    assert finals.after_some_texts.notna().all()
    assert runs[runs.kind == "tuning"].after_some_texts.isna().all()
