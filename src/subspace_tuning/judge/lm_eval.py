"""A task of EleutherAI's lm-evaluation-harness, with our model handed over; needs the package lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.judge.judgement import STRICT, Judgement, Progress, register
from subspace_tuning.judge.ready import judged
from subspace_tuning.judge.verdict import Verdict
from subspace_tuning.rows.kept import digest


@register("lm_eval")
@dataclass(frozen=True, kw_only=True, config=STRICT)
class LmEval(Judgement):
    """A task or group of tasks by its name there.

    include: a folder of task files (YAML) of one's own; they may call Python code of that folder. shots: examples in
    front. metric: the main one, by default the task's first. samples: the first ones, as the harness takes them.
    """

    task: str
    include: str | None = None
    shots: int | None = Field(None, ge=0)
    metric: str | None = None
    batch_size: int = Field(16, ge=1)

    packages: ClassVar[tuple[str, ...]] = ("lm_eval",)

    @property
    def is_told(self) -> bool:
        """One's own task files may change under their names."""
        return self.include is None

    def __call__(self, model: nn.Module, tokenizer: Any, *, progress: Progress | None = None) -> Verdict:
        harness, huggingface = _harness()
        manager = self._manager()
        before = tokenizer.padding_side, tokenizer.pad_token
        with judged(model):
            try:
                taken = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)
                found = harness.simple_evaluate(
                    model=taken,
                    tasks=[self.task],
                    task_manager=manager,
                    num_fewshot=self.shots,
                    limit=self.samples,
                    bootstrap_iters=0,
                )
            except (OSError, ConnectionError) as error:
                said = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise BadInput(f"lm_eval cannot load the data of {self.task!r}: {said}; go online once") from error
            finally:
                tokenizer.padding_side, tokenizer.pad_token = before
        verdict = self._verdict(found)
        if progress is not None:
            progress(verdict.rows, verdict.rows)
        return verdict

    @property
    def label(self) -> str:
        return self.name or f"{self.kind} {self.task}"

    def _manager(self) -> Any:
        """What finds the task: one's own folder, else the harness's thousands of files, which take seconds to list."""
        from lm_eval.tasks import TaskManager

        if self.include is not None:
            if not Path(self.include).is_dir():
                raise BadInput(f"lm_eval: there is no folder of task files {self.include}")
            own = TaskManager(include_path=self.include, include_defaults=False)
            if self.task in own.all_tasks:
                return own
        every = TaskManager(include_path=self.include)
        if self.task not in every.all_tasks:
            raise BadInput(
                f"lm_eval knows no task {self.task!r}: {nearest(self.task, every.all_tasks)}see `lm_eval ls`"
            )
        return every

    def _verdict(self, found: Any) -> Verdict:
        metrics = {
            name.removesuffix(",none"): float(value)
            for name, value in found["results"][self.task].items()
            if isinstance(value, int | float) and "_stderr" not in name and name != "sample_len"
        }
        if not metrics or (self.metric is not None and self.metric not in metrics):
            known = ", ".join(metrics) or "none"
            hint = nearest(self.metric or "", metrics)
            raise BadInput(f"lm_eval: the task {self.task!r} has no metric {self.metric!r}: {hint}there is {known}")
        samples = [sample for of in found.get("samples", {}).values() for sample in of]
        main = self.metric or next(iter(metrics))
        plain = {name: name.partition(",")[0] for name in metrics}
        per_row = {
            name: [float(sample[key]) for sample in samples]
            for name, key in plain.items()
            if samples and all(np.isscalar(sample.get(key)) for sample in samples)
        }
        better = found.get("higher_is_better", {}).get(self.task, {}).get(plain[main], True)
        return Verdict(
            judge=self.label,
            metric=main,
            metrics=metrics,
            numbers=[int(sample["doc_id"]) for sample in samples],
            per_row=per_row,
            data=digest([sample.get("doc_hash") for sample in samples])[:16],
            greater_is_better=better is not False,
        )


def _harness() -> tuple[Any, Any]:
    try:
        from lm_eval import evaluator
        from lm_eval.models import huggingface
    except ImportError as error:
        raise BadInput(
            "the judgement lm_eval needs the package lm-eval: pip install 'subspace-tuning[lm-eval]'"
        ) from error
    return evaluator, huggingface
