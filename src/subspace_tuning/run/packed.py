"""Several runs over one frozen model in one process: their batches joined, everything else a run's own.

Methods, ranks, learning rates, schedules and seeds may differ; model, data and the length of texts are shared. A joint
step is one forward and one backward pass, each run's rows by its own adapter and head; the loss is the sum of the runs'
losses, so that every parameter gets the gradient that it would get alone. A run is judged when it ends, not in between.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, set_seed

from subspace_tuning.errors import BadInput, RunFailed, as_bad_input
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.pretrained import Pretrained, adapt, config_of, load_model, load_tokenizer
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.run.train import fit_to_data, result_of, trainer_of
from subspace_tuning.run.watch import Watch
from subspace_tuning.tasks.labelled import LabelledTexts
from subspace_tuning.tuner.clock import clocks_of
from subspace_tuning.tuner.experts import SubspaceExperts
from subspace_tuning.tuner.model import layers
from subspace_tuning.tuner.routed import routed

DATA = ("task", "data", "encoding", "train_samples", "eval_samples", "hold_out")
SHARED = ("model", *DATA, "max_length", "modules_to_save")
REFUSED = {  # what a joint step does not do, and what a recipe says when it does not ask for it
    "gradient_accumulation": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "checkpoint": "last",
    "early_stopping": None,
    "trainer": {},
}
DEFAULT = "default"  # PEFT's name for a first adapter


@dataclass
class Member:
    """One run of a pack."""

    name: str
    recipe: Recipe
    folder: RunFolder
    trainer: Trainer
    watch: Watch
    trained: list[torch.nn.Parameter]
    step: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """The optimiser takes what is trainable now: the parameters of this run alone."""
        loader = self.trainer.get_train_dataloader()
        total = self.recipe.max_steps or math.ceil((self.recipe.epochs or 1) * len(loader))
        self.trainer.create_optimizer_and_scheduler(total)
        self.optimizer: Any = self.trainer.optimizer
        self.schedule: Any = self.trainer.lr_scheduler
        self.batches = _batches(loader, total)

    def advance(self, loss: float) -> None:
        """Take the step for which the gradients are at hand."""
        if not math.isfinite(loss):
            raise RunFailed(
                f"the loss of {self.folder.path} is {loss} at step {self.step + 1}: training broke down; lower the "
                f"learning rate ({self.recipe.learning_rate:g}) or check the data, and pack the runs again"
            )
        torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss)
        if self.step % self.recipe.log_every == 0:
            recent = self.losses[-self.recipe.log_every :]
            (clock,) = (c for c in clocks_of(cast(torch.nn.Module, self.trainer.model)) if c.adapter == self.name)
            held = clock.mean_penalty()
            penalty = {} if held is None else {"penalty": held}
            self.folder.log({"step": self.step, "loss": sum(recent) / len(recent), **penalty})


def train_packed(
    recipes: Sequence[Recipe], *, again: bool = False, say: Callable[[str], None] = lambda text: None
) -> list[Result]:
    """Train all recipes side by side; each run's folder and result are those that ``train.run`` would leave.

    Finished runs are read, unless ``again``; an interrupted pack starts over. Raises BadInput for recipes that do not
    go together and RunFailed where one of them breaks down.
    """
    recipes = [recipe.resolved() for recipe in recipes]
    folders = [RunFolder.of(recipe) for recipe in recipes]
    _check(recipes, folders)
    with ExitStack() as stack:
        pairs = zip(recipes, folders, strict=True)
        found = [stack.enter_context(folder.held(recipe, again, say)) for recipe, folder in pairs]
        rest = [i for i, done in enumerate(found) if done is None]
        for i in rest:
            folders[i].keep_metrics(0)
        trained = iter(_train([recipes[i] for i in rest], [folders[i] for i in rest]) if rest else ())
        return [done or next(trained) for done in found]


def _check(recipes: Sequence[Recipe], folders: Sequence[RunFolder]) -> None:
    first = recipes[0]
    if len({str(folder.path) for folder in folders}) < len(folders):
        raise BadInput("two of the packed runs have the same folder; give each recipe an output of its own")
    for recipe in recipes:
        of_task = first.task_object().to_data() | recipe.task_object().to_data()
        for key in (*SHARED, *of_task):
            if getattr(recipe, key, None) != getattr(first, key, None):
                given = f"{getattr(first, key, None)!r} and {getattr(recipe, key, None)!r}"
                raise BadInput(f"packed runs share their {key}, got {given}; train them one by one")
        for key, usual in REFUSED.items():
            if getattr(recipe, key) != usual:
                given = f"{key}={getattr(recipe, key)!r}"
                raise BadInput(f"packed runs go with {key}={usual!r}, got {given}; train that one alone")
        if not isinstance(task := recipe.task_object(), LabelledTexts):
            raise BadInput(f"packed runs go with texts that have a label, not with task: {task.name}; train it alone")
        method = None if recipe.is_plain else recipe.method_object()
        if method is None or method.sits_on not in ("weight", "bias", "output") or method.on_step or method.calibration:
            raise BadInput(
                f"{recipe.method_label} cannot be packed: only methods that sit on the weights of a frozen model, and "
                "need neither data to start nor anything done between steps; train it alone"
            )


def _train(recipes: list[Recipe], folders: list[RunFolder]) -> list[Result]:
    began = time.perf_counter()
    model, pretrained = _joint_model(recipes)
    members = []
    for i, (recipe, folder) in enumerate(zip(recipes, folders, strict=True)):
        model.set_adapter(_name(i))
        watch = Watch(folder)
        trainer = trainer_of(recipe, folder, model, [watch])
        trained = [p for p in model.parameters() if p.requires_grad]
        members.append(Member(_name(i), recipe, folder, trainer, watch, trained))
    for member in members:
        for parameter in member.trained:
            parameter.requires_grad_(True)
    _run(model, members, load_tokenizer(recipes[0].model))
    return [_finish(model, pretrained, member, began) for member in members]


def _name(i: int) -> str:
    return f"run{i}" if i else DEFAULT


def _joint_model(recipes: list[Recipe]) -> tuple[PeftModel, Pretrained]:
    """One frozen model with an adapter and a head for each recipe, which start as they would alone."""
    task = recipes[0].task_object()
    pretrained = load_model(recipes[0].model, task, recipes[0].seed)
    fit_to_data(pretrained, recipes[0])
    model: Any = adapt(pretrained, recipes[0])
    if any(isinstance(layer, SubspaceExperts) for layer in layers(model)):
        raise BadInput(
            "packed runs give each row of a batch its own adapter, and fused experts take the tokens of all at once: "
            "train them one by one, or leave the experts out by exclude_modules"
        )
    for i, recipe in enumerate(recipes[1:], 1):
        fresh = load_model(recipe.model, task, recipe.seed)
        fit_to_data(fresh, recipe)
        torch.manual_seed(recipe.seed)
        with as_bad_input():
            model.add_adapter(_name(i), config_of(recipe, pretrained.head))
        for path in fresh.head:
            own = model.base_model.model.get_submodule(path).modules_to_save[_name(i)]
            own.load_state_dict(fresh.model.get_submodule(path).state_dict())
    return model, pretrained


def _batches(loader: Any, total: int) -> Iterator[dict[str, Tensor]]:
    """The batches of a run, in the order in which it would see them alone."""
    for epoch in count():
        loader.set_epoch(epoch)  # the order follows from it
        for batch in islice(loader, total):
            total -= 1
            yield dict(batch)
        if total <= 0:
            return


def _run(model: PeftModel, members: list[Member], tokenizer: Any) -> None:
    set_seed(members[0].recipe.seed)
    model.train()
    going = list(members)
    while going:
        began = time.perf_counter()
        batches = {m.name: batch for m in going if (batch := next(m.batches, None)) is not None}
        going = [m for m in going if m.name in batches]
        if not going:
            return
        names = [m.name for m in going for _ in batches[m.name]["labels"]]
        inputs = _joined([batches[m.name] for m in going], tokenizer)
        with routed(model, names):
            logits = model(**inputs).logits
        parts = logits.split([len(batches[m.name]["labels"]) for m in going])
        losses = [_loss(m, part, batches[m.name]["labels"]) for m, part in zip(going, parts, strict=True)]
        torch.stack(losses).sum().backward()
        for member, loss in zip(going, losses, strict=True):
            member.advance(loss.item())
            member.watch.times.append(time.perf_counter() - began)


def _joined(batches: list[dict[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
    """One batch of the rows of all, padded to the longest; without labels."""
    length = max(b["input_ids"].shape[1] for b in batches)
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    left = tokenizer.padding_side == "left"

    def padded(key: str, t: Tensor) -> Tensor:
        short = length - t.shape[1]
        return F.pad(t, (short, 0) if left else (0, short), value=fill.get(key, 0))

    return {key: torch.cat([padded(key, b[key]) for b in batches]) for key in batches[0] if key != "labels"}


def _loss(member: Member, logits: Tensor, labels: Tensor) -> Tensor:
    """A run's own loss."""
    task, weighted = member.recipe.task_object(), member.trainer.compute_loss_func
    assert isinstance(task, LabelledTexts)
    return weighted({"logits": logits}, labels) if weighted else task.loss(logits, labels)


def _finish(model: PeftModel, pretrained: Pretrained, member: Member, began: float) -> Result:
    model.requires_grad_(False)
    model.set_adapter(member.name)  # what is trainable counts
    member.trainer.state.global_step = member.step
    task = member.recipe.task_object()
    scores = task.judge(member.trainer)
    result = result_of(member.recipe, task, model, pretrained, scores[task.metric], member.step, 0, member.watch, began)
    result = replace(result, scores=scores)
    member.folder.finish(result, "adapter", lambda path: _save(model, member.name, path))
    return result


def _save(model: PeftModel, name: str, folder: Path) -> None:
    """The adapter as if it were the model's only one."""
    model.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    if (folder / name).is_dir():
        for path in (folder / name).iterdir():
            path.replace(folder / path.name)
        shutil.rmtree(folder / name)
