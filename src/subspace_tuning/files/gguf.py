"""A GGUF file as a checkpoint of transformers: de-quantised once, because each loading of it takes twenty seconds."""

from __future__ import annotations

from pathlib import Path

from subspace_tuning.errors import BadInput

FILE = "model.gguf"


def convert(folder: Path) -> None:
    """Replace the folder's ``model.gguf`` by safetensors in single precision, a config and a tokenizer."""
    try:
        import gguf  # noqa: F401  transformers reads such files through it
    except ImportError as error:
        raise BadInput(
            "the model comes as a GGUF file, and the package gguf, which reads it, is not installed: "
            "pip install 'subspace-tuning[llm]'"
        ) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # without this config the model counts as quantised and refuses to be saved
        plain = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=FILE, quantization_config=plain, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE, trust_remote_code=False)
    finally:
        if bars:
            logging.enable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / FILE).unlink()
