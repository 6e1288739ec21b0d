"""What an export kept, for a reader and for a machine; the cards that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from subspace_tuning.convert.probe import Differences
from subspace_tuning.files.plain import dump
from subspace_tuning.version import VERSION

CERTIFICATE = "certificate.json"


class Layer(NamedTuple):
    """What became of one layer."""

    shape: tuple[int, int]
    rank: int | None  # of the written factors; None where the weight itself was written
    exact: bool  # what was written is the change but for rounding
    error: float  # ||[dW - written; db - written]||_F / ||[dW; db]||_F
    rounding: bool  # what is missed is no more than rounding W to single precision comes to
    bias: str  # unchanged | kept | lost
    norm: str = ""  # the one before it, where scales of its inputs went there
    codes: float | None = None  # of a quantised weight, the share of codes that changed


@dataclass(frozen=True)
class Certificate:
    """What an export kept."""

    made_by: str
    source: list[str]
    methods: list[str]
    base: str
    to: str
    asked: dict[str, Any]
    exact: bool
    error: float  # over all layers together
    largest_error: float
    worst_layer: str
    layers: dict[str, Layer]
    probe: str
    logits: Differences  # between the adapter and what was written
    moved: Differences  # between the base model and the adapter: what the former is to be judged by
    peft_type: str = ""  # of what was written, where it is an adapter
    norms: dict[str, str] = field(default_factory=dict)  # of those that could hold scales: folded, or why not
    refused: str = ""  # where nothing was written: why an export would refuse to

    @classmethod
    def of(cls, layers: dict[str, Layer], sizes: Mapping[str, float], **about: Any) -> Certificate:
        """From what became of each layer, and ||[dW; db]||_F of it."""
        whole = sum(sizes[name] ** 2 for name in layers)
        lost = sum((layer.error * sizes[name]) ** 2 for name, layer in layers.items())
        worst = max(layers, key=lambda name: layers[name].error)
        return cls(
            made_by=f"subspace-tuning {VERSION}",
            exact=all(layer.exact for layer in layers.values()),
            error=(lost / whole) ** 0.5 if whole else 0.0,
            largest_error=layers[worst].error,
            worst_layer=worst,
            layers=layers,
            **about,
        )

    def to_json(self) -> str:
        """Valid JSON: a number that is none is null."""
        data = asdict(self)
        data["layers"] = {name: layer._asdict() for name, layer in self.layers.items()}
        return dump(data | {"logits": self.logits._asdict(), "moved": self.moved._asdict()})


CARD = """---
library_name: peft
base_model: {base}
tags: [lora, subspace-tuning]
---
# A LoRA adapter

Trained as {made}, exported as plain LoRA: PEFT and what reads its adapters load it by themselves.
`certificate.json` says what was kept, layer by layer.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```
"""
PEFT_CARD = """---
library_name: peft
base_model: {base}
tags: [subspace-tuning]
---
# An adapter of PEFT's type {type}

Trained as {made}, written as the type of PEFT's that computes the same: PEFT loads it by itself.
`certificate.json` says how near the two are, layer by layer.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```
"""
MERGED_CARD = """---
library_name: transformers
base_model: {base}
tags: [subspace-tuning]
---
# A fine-tuned model

Trained as {made}; the method's parameters are merged into the weights, nothing else is needed to load it.
`certificate.json` says what rounding cost, layer by layer.
"""
