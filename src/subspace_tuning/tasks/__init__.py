"""Tasks: what a row of data is, which head a model gets, how it is judged. One short file a kind."""

from subspace_tuning.tasks import (  # noqa: F401  they register
    audio_classification,
    classification,
    ctc,
    dpo,
    glue,
    image_classification,
    movie_reviews,
    multi_label,
    question_answering,
    ranking,
    regression,
    retrieval,
    segmentation,
    seq2seq,
    sft,
    similarity,
    speech_to_text,
    token_classification,
)
from subspace_tuning.tasks.load import Data, load, stamp
from subspace_tuning.tasks.registry import KINDS, KNOWN, kind_of, register, task_of
from subspace_tuning.tasks.task import Answer, Task

__all__ = ["KINDS", "KNOWN", "Answer", "Data", "Task", "kind_of", "load", "register", "stamp", "task_of"]
