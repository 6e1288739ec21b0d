"""A run as a plain transformers model: phi(W) written into the weights, with tokenizer and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.aside import free, whole_folder
from subspace_tuning.files.assets import DEFAULT, SMALL_LM, location
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.tuner.strength import set_strength
from subspace_tuning.weights import NotTaken

CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
base_model: {model}
tags: [subspace-tuning]
---
# {model} fine-tuned on {task} by {method}

A plain transformers model: the method's parameters are merged into the weights, nothing else is needed to load it.

```python
from transformers import pipeline

model = pipeline("{pipeline}", "path/to/this/folder")
```

| | |
|---|---|
| {metric} on the rows held out for it | {score:.4f} |
| weights judged | the {checkpoint} checkpoint |
| trained parameters | {trainable:,} of {total:,} ({permille:.2f} per mille){head} |
| seed | {seed} |{strength}

Made with [subspace-tuning](https://pypi.org/project/subspace-tuning/) {version}; recipe:

```yaml
{recipe}```
"""


def merge(run: Path | str, out: Path | str, strength: float = 1.0) -> Path:
    """Write the merged model of a finished run to a new folder, at a strength t the one of phi_t.

    Raises BadInput where the method cannot be merged.
    """
    out = free(out)
    folder = RunFolder(run)
    recipe, result = finished(folder)
    if recipe.is_plain and strength != 1:
        raise BadInput(f"{folder.path} trained every weight, without a method: it has no strength but 1")
    predictor = Predictor(run)
    model = predictor.model
    if not predictor.recipe.is_plain and model.peft_config[model.active_adapter].is_prompt_learning:
        raise BadInput(f"{folder.path} holds a soft prompt, which is no map of a weight; keep it unmerged")
    if not predictor.recipe.is_plain:
        with as_bad_input((ValueError, NotImplementedError, NotTaken)):
            if strength != 1:
                set_strength(model, strength)
            model = model.merge_and_unload(safe_merge=True)
    with whole_folder(out) as aside:
        card = card_of(predictor.recipe, result, strength)
        write_model(model, predictor.tokenizer, card, aside, like=predictor.recipe.model)
    return out


def finished(folder: RunFolder) -> tuple[Recipe, Result]:
    """What a run was asked for and came to. Raises BadInput where there is nothing to merge."""
    recipe = folder.recipe()  # tells whether it is a run at all
    result = folder.result()
    if result is None:
        raise BadInput(f"{folder.path} is not finished; there is nothing to merge yet")
    if not recipe.is_plain and not (method := recipe.method_object()).mergeable:
        raise BadInput(f"{method.describe()} is not a map of the weight alone and cannot be merged; keep it unmerged")
    return recipe, result


def write_model(model: Any, tokenizer: Any, card: str, folder: Path, like: str) -> None:
    """Weights, config, tokenizer and card of a plain model; in shards no larger than those of the model it is like."""
    sizes = [path.stat().st_size for path in Path(location(like)).glob("*-of-*.safetensors")]
    if getattr(model, "hf_quantizer", None) is not None:  # how codes were read, transformers cannot turn round
        model._weight_conversions = None
    model.save_pretrained(str(folder), **({"max_shard_size": max(sizes)} if sizes else {}))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def card_of(recipe: Recipe, result: Result, strength: float = 1.0) -> str:
    """The model card of a merged run."""
    version = result.versions.get("subspace-tuning", "")
    base = public_name(result.model)
    kind = recipe.task_object().pipeline
    dial = "" if strength == 1 else f"\n| strength of the method in these weights | {strength:g} (judged at 1) |"
    head = ", and the head" if result.trainable_with_head > result.trainable else ""
    said = {**vars(result), "model": base, "strength": dial, "head": head}
    return CARD.format(recipe=recipe.dump(), version=version, pipeline=kind, **said)


def public_name(model: str) -> str:
    """What others call a model: its name on the hub, or the last part of a path, which is nobody's business."""
    named = {DEFAULT: "sentence-transformers/all-MiniLM-L6-v2", SMALL_LM: "HuggingFaceTB/SmolLM2-135M-Instruct"}.get(
        model, model
    )
    return Path(named).name if Path(named).is_dir() else named
