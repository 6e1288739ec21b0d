"""One run: a recipe in, a run folder and a result out."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from subspace_tuning.bench import memory
from subspace_tuning.bench.floor import floor_ratio
from subspace_tuning.errors import BadInput, Interrupted, RunFailed, is_out_of_memory, told
from subspace_tuning.run import processes, sharded
from subspace_tuning.run.arguments import arguments
from subspace_tuning.run.checkpoints import Checkpoints, step_of
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.judging import Judges
from subspace_tuning.run.order import by_length
from subspace_tuning.run.precision import SLOW, has_bf16
from subspace_tuning.run.pretrained import Pretrained, adapt, load_model, load_processor
from subspace_tuning.run.prompts import WholePrompts
from subspace_tuning.run.recipe import NONE, Recipe
from subspace_tuning.run.saving import Saving, broke_down, is_finite
from subspace_tuning.run.stop import Stop
from subspace_tuning.run.trainer import made_for
from subspace_tuning.run.watch import Watch
from subspace_tuning.tasks import Task, load, stamp
from subspace_tuning.tuner.budget import count
from subspace_tuning.tuner.calibrate import calibrate, needs_calibration
from subspace_tuning.tuner.reached import Bypassed
from subspace_tuning.version import VERSION

Row = dict[str, Any]
Load = Callable[..., Pretrained]  # as load_model
FLOOR_BATCHES = 3


def run(
    recipe: Recipe,
    *,
    again: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = lambda text: None,
    load: Load = load_model,
    beforehand: Callable[[Recipe, Sequence[Row]], None] = lambda recipe, rows: None,
) -> Result:
    """Train as the recipe says and return the result; ``say`` is told in words what is worth knowing;
    ``load`` makes the pretrained model, ``beforehand`` sees the rows to train on before that.

    A finished run is not run again but read, unless ``again``; an interrupted one goes on from its last checkpoint.
    Raises BadInput for a recipe that cannot be run and RunFailed for a run that came to nothing.
    """
    recipe = recipe.resolved()
    folder = RunFolder.of(recipe)
    arguments(recipe, folder)  # raises before anything is written
    if not processes.is_first():
        say, beforehand = lambda text: None, lambda recipe, rows: None
    with processes.led(folder.held(recipe, again, say)) as done:
        return done or _in_sentences(recipe, folder, callbacks, say, load, beforehand)


def _in_sentences(
    recipe: Recipe,
    folder: RunFolder,
    callbacks: Sequence[TrainerCallback],
    say: Callable[[str], None],
    load: Load,
    beforehand: Callable[[Recipe, Sequence[Row]], None],
) -> Result:
    """Run it; what a person can mend is said in one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Bypassed)
            return _run(recipe, folder, callbacks, say, load, beforehand)
    except Bypassed as error:
        raise BadInput(str(error)) from error
    except (BadInput, RunFailed):
        raise
    except Exception as error:
        if processes.is_first():
            Checkpoints(folder.checkpoints).drop_unsealed()
        sentence = _out_of_memory(recipe) if is_out_of_memory(error) else told(error, folder.path)
        if sentence is None:
            raise
        raise sentence from error


def _out_of_memory(recipe: Recipe) -> RunFailed:
    usual = {
        f"a lower batch_size ({recipe.batch_size}) with more gradient_accumulation ({recipe.gradient_accumulation})": 1,
        f"a lower max_length ({recipe.max_length or 'as long as texts are'})": 1,
        "gradient_checkpointing: true": not recipe.gradient_checkpointing,
        "bf16: true": not recipe.in_bf16,
    }
    helps = [knob for knob, is_left in usual.items() if is_left]
    return RunFailed(f"memory ran out; what helps: {', '.join(helps[:-1])}, or {helps[-1]}")


def _run(
    recipe: Recipe,
    folder: RunFolder,
    callbacks: Sequence[TrainerCallback],
    say: Callable[[str], None],
    load_pretrained: Load,
    beforehand: Callable[[Recipe, Sequence[Row]], None],
) -> Result:
    if recipe.in_bf16 and not has_bf16():
        say(SLOW)
    task = recipe.task_object()
    train_rows, _ = encoded(recipe, task)
    beforehand(recipe, train_rows)
    judges = Judges(recipe) if recipe.evaluate else None
    pretrained = load_pretrained(recipe.model, task, recipe.seed, recipe.dtype)
    fit_to_data(pretrained, recipe)
    if torch.accelerator.is_available():
        cast(Any, pretrained.model).to(torch.accelerator.current_accelerator())
    before = judges.before(pretrained.model) if judges else {}
    if recipe.method == NONE:
        return judged_as_it_is(recipe, folder, pretrained, judges)
    model = adapt(pretrained, recipe)
    watch, stop, checkpoints = Watch(folder), Stop(), Checkpoints(folder.checkpoints)
    trainer = trainer_of(recipe, folder, model, [WholePrompts(), watch, Saving(folder, stop), *callbacks])
    if recipe.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping))

    checkpoint = processes.of_first(lambda: checkpoints.last(say))  # or None, to start over
    start = step_of(checkpoint) if checkpoint else 0
    if checkpoint is not None:
        say(f"goes on from {checkpoint.name} in {folder.path}")
    if processes.is_first():
        folder.keep_metrics(checkpoints.noted(start) if checkpoint else 0)
    set_seed(recipe.seed)
    began = time.perf_counter()
    if checkpoint is None and needs_calibration(model):
        batches = calibration_batches(recipe, train_rows, trainer.data_collator)
        calibrate(model, batches, loss=cast(Any, trainer.compute_loss))
    ratio = None
    if recipe.floor:
        batches = calibration_batches(recipe, train_rows, trainer.data_collator)
        ratio = floor_ratio(model, islice(batches, FLOOR_BATCHES), recipe.in_bf16)
    with stop.deferring():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.asked is not None:
        raise Interrupted(stop.asked, f"trained, not judged yet; the same command does that in {folder.path}")
    if not is_finite(model):
        raise broke_down("the trained weights are no numbers", trainer.args, checkpoints)
    judged = None if judges is None else judges.after(trainer.model, before)
    scores = task.judge(trainer) if judged is None else {}
    metric = judged.metric if judged else task.metric or next(iter(scores))
    score = judged.score if judged else scores[metric]
    result = result_of(recipe, task, model, pretrained, score, trainer.state.global_step, start, watch, began)
    result = replace(result, metric=metric, floor_ratio=ratio, scores=scores)
    if judged is not None:
        result = replace(result, **judged.told())
    state = sharded.trained_state(cast(Any, trainer.model)) if processes.count() > 1 else None
    if processes.is_first():
        if judged is not None:
            judged.write(folder)
        kind = "model" if recipe.is_plain else "adapter"
        folder.finish(result, kind, lambda path: save(trainer, recipe, path, state))
    return result


def judged_as_it_is(recipe: Recipe, folder: RunFolder, pretrained: Pretrained, judges: Judges | None) -> Result:
    """A run that trains nothing: what the base comes to by the same judgements."""
    task = recipe.task_object()
    if judges is None and task.has_head:
        raise BadInput(
            f"method: {NONE} judges the base as it is, and task: {recipe.task} needs a head that is trained; "
            "take method: head"
        )
    watch, began = Watch(folder), time.perf_counter()
    model = adapt(pretrained, recipe)
    judged = judges.after(model, judges.before(model)) if judges else None
    scores = {} if judged else task.judge(trainer_of(recipe, folder, model, []))
    score = judged.score if judged else scores[task.metric]
    result = replace(result_of(recipe, task, model, pretrained, score, 0, 0, watch, began), scores=scores)
    if judged is not None:
        judged.write(folder)
        result = replace(result, metric=judged.metric, **judged.told())
    folder.finish(result, None, lambda path: None)
    return result


def trainer_of(
    recipe: Recipe, folder: RunFolder, model: torch.nn.Module, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    """The trainer of the task's kind for a recipe: its rows, its arguments, its metrics."""
    task = recipe.task_object()
    processor = load_processor(recipe.model, task.processor)
    train_rows, eval_rows = encoded(recipe, task)
    if recipe.group_by_length:
        eval_rows = by_length(eval_rows)
    trainer = made_for(task.trainer())(
        model=model,
        args=arguments(recipe, folder),
        train_dataset=cast(Any, train_rows),  # a list is a dataset
        eval_dataset=cast(Any, eval_rows),
        callbacks=list(callbacks),
        **task.parts(processor, train_rows, eval_rows),
    )
    trainer.wanted, trainer.averaged = recipe.optimizer, task.averaged
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def calibration_batches(recipe: Recipe, rows: Sequence[Row], collator: Callable[[list[Any]], Any]) -> DataLoader:
    """The batches of training rows that a method looks at before training."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed))
    some = [rows[i] for i in chosen[: recipe.calibration_batches * (recipe.batch_size or 1)]]
    return DataLoader(cast(Any, some), batch_size=recipe.batch_size, collate_fn=collator)


def result_of(
    recipe: Recipe,
    task: Task,
    model: torch.nn.Module,
    pretrained: Pretrained,
    score: float,
    steps: int,
    start: int,
    watch: Watch,
    began: float,
) -> Result:
    counts = count(model, pretrained.head)
    return Result(
        method=recipe.method_label,
        category=recipe.method if recipe.is_plain else recipe.method_object().category,
        task=task.name,
        model=recipe.model,
        seed=recipe.seed,
        metric=task.metric,
        score=score,
        checkpoint=recipe.checkpoint,
        learning_rate=recipe.learning_rate or 0.0,
        steps=steps,
        trainable=counts.trainable,
        trainable_with_head=counts.trainable_with_head,
        total=counts.total,
        permille=counts.permille,
        seconds=time.perf_counter() - began,
        seconds_per_step=watch.seconds_per_step,
        peak_memory_mb=memory.peak_mb(),
        resumed_from_step=start,
        config_hash=recipe.digest(),
        device=memory.device_name(),
        threads=torch.get_num_threads(),
        versions={"subspace-tuning": VERSION, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        data=recipe.data_name,
        hold_out=recipe.hold_out,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def save(trainer: Trainer, recipe: Recipe, folder: Any, state: Any = None) -> None:
    """Write the trained weights (safetensors) and, with a whole model, its tokenizer; of a sharded one its state."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if recipe.is_plain:
        model.save_pretrained(folder, state_dict=state)
        load_processor(recipe.model, recipe.task_object().processor).save_pretrained(folder)
    else:
        model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)


def encoded(recipe: Recipe, task: Task) -> tuple[Sequence[Row], Sequence[Row]]:
    """Training and validation rows as the model takes them; kept for the next run with the same data and model."""
    keys = ("train_samples", "eval_samples", "hold_out", "encoding")
    rows = {key: getattr(recipe, key) for key in keys}
    return _encoded(task, recipe.data, stamp(task, recipe.data), tuple(rows.items()), recipe.model, recipe.max_length)


@lru_cache(maxsize=4)
def _encoded(
    task: Task,
    data: str | None,
    version: tuple[Any, ...],  # of the data: other files, other rows
    rows: tuple[tuple[str, Any], ...],
    model: str,
    max_length: int | None,
) -> tuple[Sequence[Row], Sequence[Row]]:
    found, processor = load(task, data, **dict(rows)), load_processor(model, task.processor)
    return task.encode(found.train, processor, max_length), task.encode(found.validation, processor, max_length)


def fit_to_data(pretrained: Pretrained, recipe: Recipe) -> None:
    """What the task's kind does with a fresh model. Raises BadInput for rows that the model cannot read."""
    task = recipe.task_object()
    processor = load_processor(recipe.model, task.processor)
    train, judged = encoded(recipe, task)
    task.join(pretrained.model, processor)
    for rows in (train, judged):
        task.check(pretrained.model, processor, rows)
    task.start(pretrained.model, pretrained.head, train)
