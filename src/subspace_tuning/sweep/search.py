"""Learning rates by Optuna: as many trials for every cell, the hopeless ones cut short by ASHA.

For search only: final runs are never cut short. The studies are a journal file in the sweep's folder, so that a search
goes on where it stopped. Which rates are tried depends on the order in which trials end, unless one job does them all.
"""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from transformers import TrainerCallback

from subspace_tuning.sweep.plan import RATE, TUNING, Candidate, Cell, Plan, Run, Trial
from subspace_tuning.sweep.recipe import Search
from subspace_tuning.sweep.worker import CutShort, Outcome

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"


class Searched:
    """A source of runs: a free worker gets a trial of the first cell that has some left."""

    def __init__(self, plan: Plan, cells: list[Cell], search: Search):
        self.plan, self.search = plan, search
        self._open = {plan.key(cell): cell for cell in cells}
        self._studies = {key: study_of(plan.folder / JOURNAL, key) for key in self._open}
        self._interrupted = deque(
            self._run(key, trial)
            for key, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False)
            if not trial.state.is_finished()
        )

    @property
    def left(self) -> bool:
        return self.unfinished > 0

    @property
    def unfinished(self) -> int:
        """Trials to come, and those on the way."""
        return sum(self.search.trials - self._ended(study) for study in self._studies.values())

    @staticmethod
    def _ended(study: optuna.Study) -> int:
        return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))

    def next(self) -> Run | None:
        if self._interrupted:
            return self._interrupted.popleft()
        for key in self._open:
            with FileLock(self.plan.folder / f"{JOURNAL}.asking"):
                if len(self._studies[key].get_trials(deepcopy=False)) < self.search.trials:
                    return self._ask(key)
        return None

    def tell(self, run: Run, outcome: Outcome) -> None:
        import optuna

        assert run.trial is not None
        state = {"finished": optuna.trial.TrialState.COMPLETE, "cut short": optuna.trial.TrialState.PRUNED}
        ended = state.get(outcome.status, optuna.trial.TrialState.FAIL)
        study = self._studies[run.trial.study]
        study.tell(run.trial.number, outcome.score, state=ended, skip_if_finished=True)

    def _ask(self, key: str) -> Run:
        import optuna

        study, own = self._studies[key], self._open[key].own_rate
        asked = len(study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            begin = min(10, self.search.trials // 2)  # trials at random, before there is anything to learn from
            study.sampler = optuna.samplers.TPESampler(seed=asked, n_startup_trials=begin, constant_liar=True)
        trial = study.ask()
        trial.suggest_float(RATE, self.search.low * own, self.search.high * own, log=True)
        return self._run(key, trial)

    def _run(self, key: str, trial: optuna.trial.Trial | optuna.trial.FrozenTrial) -> Run:
        cell, tuning = self._open[key], self.plan.sweep.tuning
        assert tuning is not None
        steps = cell.some.max_steps
        every: Any = max(1, steps // self.search.evaluations) if steps else "epoch"
        # A trial that was cut off before it got its rate takes the method's own.
        rate = trial.params.get(RATE, cell.own_rate)
        recipe = cell.recipe(
            tuning.seeds[0], ((RATE, rate),), hold_out=True, **{**tuning.fields, "evaluate_every": every}
        )
        place = Trial(str(self.plan.folder / JOURNAL), key, trial.number)
        return Run.of(recipe, TUNING, self.plan.folder, place)


def study_of(journal: Path, name: str) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    asha = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.create_study(storage=storage, study_name=name, pruner=asha, direction="maximize", load_if_exists=True)


def tried(plan: Plan, cell: Cell) -> list[tuple[Candidate, float | None]]:
    """Candidate and score of each trial that was not cut short; no score where it failed."""
    trials = study_of(plan.folder / JOURNAL, plan.key(cell)).get_trials(deepcopy=False)
    ended = [t for t in trials if t.state.is_finished() and t.state.name != "PRUNED"]
    return [(((RATE, float(t.params[RATE])),), t.value) for t in ended if RATE in t.params]


def callbacks(run: Run) -> list[TrainerCallback]:
    """What a trial's training needs: that it tells how it does, and stops when told to."""
    if run.trial is None:
        return []
    return [_Asha(run.trial, run.recipe.task_object().metric)]


class _Asha(TrainerCallback):
    """Asynchronous successive halving: at each evaluation the better half of the trials goes on."""

    def __init__(self, trial: Trial, metric: str):
        import optuna

        study = study_of(Path(trial.journal), trial.study)
        self._trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[trial.number]._trial_id)
        self._metric = f"eval_{metric}"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:  # ready: nothing to save by stopping
            return
        metric = self._metric if self._metric in metrics else "eval_loss"  # language models are judged last
        evaluations = sum(metric in line for line in state.log_history)  # also those before it was interrupted
        self._trial.report(metrics[metric] if metric == self._metric else -metrics[metric], evaluations)
        if self._trial.should_prune():
            raise CutShort(f"after {state.global_step} of {state.max_steps} steps")
