"""Prompt tuning: train tokens in front of the input."""

from abc import abstractmethod
from dataclasses import dataclass

from peft import PeftConfig, PromptTuningConfig

from subspace_tuning.method import Method, Start
from subspace_tuning.method.registry import register


@dataclass(frozen=True)
class SoftPrompt(Method):
    """phi([P; W]) = [P'; W]: trained rows in front, the part that soft prompts share.

    They sit on tokens, not on a weight, and PEFT trains them: ``peft_config`` is its own config.
    """

    tokens: int = 20

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    sits_on = "tokens"
    mergeable = False
    no_decay = "tokens of zeros in front of the input are not the same as none"
    learning_rate = 1e-2

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"{self.name}: tokens is a whole number above 0, got tokens={self.tokens!r}")

    @abstractmethod
    def peft_config(self, task_type: str) -> PeftConfig:
        """PEFT's config of this method."""

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        raise ValueError(f"{self.name} sits on tokens, not on a weight: it composes with nothing and takes no MPC")


@register("prompt")
@dataclass(frozen=True)
class Prompt(SoftPrompt):
    """phi([P; X]) = [P'; X], P' trained.

    P' in R^{tokens x d} stands in front of the input embeddings X; by PEFT's PromptTuningConfig.
    Source: arXiv:2104.08691; arXiv:2407.05417, eqs. (13)-(14).
    """

    formula = "tokens d"
    paper = "arXiv:2104.08691"

    def peft_config(self, task_type: str) -> PeftConfig:
        return PromptTuningConfig(task_type=task_type, num_virtual_tokens=self.tokens)
