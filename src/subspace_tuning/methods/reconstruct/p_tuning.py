"""P-tuning: train tokens in front of the input by way of a small network."""

from dataclasses import dataclass

from peft import PeftConfig, PromptEncoderConfig

from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.prompt import SoftPrompt


@register("p_tuning")
@dataclass(frozen=True)
class PTuning(SoftPrompt):
    """phi([P; X]) = [f(P'); X], P' and f trained.

    f is a network of three layers of width h on P' in R^{tokens x d}; by PEFT's PromptEncoderConfig.
    Source: arXiv:2103.10385.
    """

    h: int = 128

    formula = "tokens d + 2 d h + h h + 2 h + d"
    paper = "arXiv:2103.10385"
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.h, bool) or not isinstance(self.h, int) or self.h < 1:
            raise ValueError(f"{self.name}: the width h is a whole number above 0, got h={self.h!r}")

    def peft_config(self, task_type: str) -> PeftConfig:
        return PromptEncoderConfig(task_type=task_type, num_virtual_tokens=self.tokens, encoder_hidden_size=self.h)
