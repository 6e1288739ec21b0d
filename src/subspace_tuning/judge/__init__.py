"""Judgements of causal language models: what a model is worth on rows, by one kind of measure a file.

``from_data({"judge": "multiple_choice", "data": folder})(model, tokenizer)`` gives a ``Verdict``.
"""

from subspace_tuning.judge.bits_per_byte import BitsPerByte
from subspace_tuning.judge.generation import Generation
from subspace_tuning.judge.judgement import JUDGEMENTS, Judgement, OfRows, from_data, register, several, to_data
from subspace_tuning.judge.lm_eval import LmEval
from subspace_tuning.judge.multiple_choice import MultipleChoice
from subspace_tuning.judge.verdict import Verdict

__all__ = [
    "JUDGEMENTS",
    "BitsPerByte",
    "Generation",
    "Judgement",
    "LmEval",
    "MultipleChoice",
    "OfRows",
    "Verdict",
    "from_data",
    "register",
    "several",
    "to_data",
]
