"""Soft prompts in checkpoints, whole: PEFT stores what P-tuning's network gives, from which training cannot go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

FILE = "prompt_encoder.safetensors"


class WholePrompts(TrainerCallback):
    """Keeps the trained network of a soft prompt beside each checkpoint, and puts it back on resuming and for the best.

    What a finished run holds is PEFT's own form, which is enough to use it.
    """

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if args.should_save and (prompts := _prompts(model)) is not None:
            tensors = {k: t.detach().contiguous() for k, t in prompts.state_dict().items()}
            save_file(tensors, _checkpoint(args, state) / FILE)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step:
            _restore(model, _checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            _restore(model, Path(state.best_model_checkpoint))


def _prompts(model: Any) -> Any:
    return getattr(model, "prompt_encoder", None)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _restore(model: Any, checkpoint: Path) -> None:
    if (prompts := _prompts(model)) is not None:
        prompts.load_state_dict(load_file(checkpoint / FILE))
