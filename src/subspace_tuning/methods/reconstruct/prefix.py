"""Prefix tuning: train keys and values in front of those of each attention."""

from dataclasses import dataclass

from peft import PeftConfig, PrefixTuningConfig

from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.prompt import SoftPrompt


@register("prefix")
@dataclass(frozen=True)
class Prefix(SoftPrompt):
    """phi([P; W]) = [P'; W], P' trained as keys and values of every attention.

    As many keys and values as tokens in each of L layers; by PEFT's PrefixTuningConfig, on models that take past keys
    and values.
    Source: arXiv:2101.00190; arXiv:2407.05417, eqs. (13)-(14).
    """

    formula = "2 tokens d L"
    paper = "arXiv:2101.00190"

    def peft_config(self, task_type: str) -> PeftConfig:
        return PrefixTuningConfig(task_type=task_type, num_virtual_tokens=self.tokens)
