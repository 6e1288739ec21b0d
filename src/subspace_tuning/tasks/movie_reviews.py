"""Sentences of movie reviews, good or bad: data that an ordinary package carries, the default."""

from __future__ import annotations

from subspace_tuning.files import assets
from subspace_tuning.tasks.classification import Classification
from subspace_tuning.tasks.labelled import Labelled
from subspace_tuning.tasks.registry import know
from subspace_tuning.tasks.task import Task


def _reviews(task: Task) -> tuple[list[Labelled], None]:
    return [Labelled((review.text,), review.label) for review in assets.movie_reviews()], None


MOVIE_REVIEWS = know(Classification(name="movie_reviews", labels=("negative", "positive"), fetch=_reviews))
