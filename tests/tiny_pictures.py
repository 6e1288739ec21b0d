"""Tiny models of pictures, and pictures that they can learn, in a folder of a test."""

from pathlib import Path

import numpy as np
import torch
import transformers as hf

_BLOCK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_VIT = {**_BLOCK, "image_size": 16, "patch_size": 8}
_STAGES = {"depths": [1, 1], "hidden_sizes": [8, 16]}
KINDS = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**_VIT), add_pooling_layer=False),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**_VIT, mlp_ratio=2)),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(**_STAGES, num_stages=2, patch_size=2)),
    "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(**_STAGES, embedding_size=8)),
}
LABELS = ("across", "down")


def model(folder: Path, kind: str = "dinov2") -> Path:
    """A model without a head, and what makes its inputs of pictures."""
    torch.manual_seed(0)
    KINDS[kind]().save_pretrained(folder)
    hf.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def segformer(folder: Path) -> Path:
    """A SegFormer without a head, of pictures of 32 x 32."""
    shape = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [1, 2]}
    blocks = {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
    torch.manual_seed(0)
    hf.SegformerModel(hf.SegformerConfig(**shape, **blocks, decoder_hidden_size=16)).save_pretrained(folder)
    hf.SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def picture(down: bool, rng: np.random.Generator) -> np.ndarray:
    """Stripes, across or down, and noise: (16, 16, 3)."""
    stripes = np.where((np.arange(16) // 4 + rng.integers(2)) % 2, 200, 50)
    lines = np.broadcast_to(stripes[None, :] if down else stripes[:, None], (16, 16))
    return np.clip(lines[..., None] + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)


def pictures(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(size, 16, 16, 3) and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    return np.stack([picture(bool(label), rng) for label in labels]), labels
