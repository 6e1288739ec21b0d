"""Makes docs/models.md: which modules of an architecture a method takes when none are named, as tried on tiny models.

    python benchmarks/architectures.py

The architectures are those of tests/model_types.py, on each of which tests/tuner/test_architectures.py lets SSB,
LoRA, Houlsby, BitFit and VeRA sit, train a step and merge.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table
from subspace_tuning.tuner.sheet import Sheet, sheet

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "docs" / "models.md"
COLUMNS = ("key_value_ff", "query_value", "all", "sublayer_outputs", "ff_output", "key")
HEAD = """\
<!-- made by `python benchmarks/architectures.py` from what was tried: edit that, not this page -->
# Models

Without `target_modules`, a method takes the modules that its paper takes, found in the blocks of the model at hand:
each weight's role is read off its name, its size and its order. `subspace modules MODEL` shows them for any model, from
its config.json alone, and the names to give as `target_modules` for another choice.

| kind of place | what it is | methods |
| --- | --- | --- |
| `key_value_ff` | key, value and first feed-forward weight; a mixer's way in | SSB, SSL, (IA)3 |
| `query_value` | query and value weight of each attention | VeRA |
| `all` | every weight of each block | LoRA and most others |
| `sublayer_outputs` | last weight of attention and of feed-forward | Houlsby adapters |
| `ff_output` | last weight of the feed-forward | Pfeiffer adapters |
| `key` | the key weight, where it stands alone | MAM |
| `biases` | every layer outside the head that has a bias | BitFit |

A model of several towers is taken by its language tower, where it has one (LLaVA, PaliGemma, Qwen2-VL, BLIP-2);
towers that are peers (CLIP, SigLIP) are both taken. Heads are left out, by `all-linear` too. Experts that transformers
keeps as parameters of three dimensions are taken like other weights, by `all-linear` too; methods that sit on outputs
leave them out with a warning. Where a kind of place is missing, the error lists what the blocks hold, with sizes, and a
`target_modules=[...]` of layers that the method can sit on.

Of a fused weight whose columns are known, a method takes the roles that it wants as slices, each with parameters of its
own: `attn.c_attn.key` of GPT-2, `self_attention.query_key_value.value` of Bloom, whose heads have theirs interleaved.
Such names go into `target_modules`, `exclude_modules`, `rank_pattern` and the like; the name of the whole
(`attn.c_attn`) puts one method on all of it. A weight is tuned whole or in slices, not both at once; slices of a
quantised weight train, and are not merged into it. `--to lora` writes the slices of a weight as one LoRA on the whole.

Not found, and why: ResNet holds convolutions alone, which the error names; XLNet keeps attention's weights as
parameters of no layer, so that it is taken by its feed-forwards; FNet and ConvNeXt have no queries and values. WavLM
reads its attention's weights without calling them, and Mamba's kernels read `x_proj` and `out_proj` in training: they
read phi(W), where phi(W) says all of a method ([kinds](kinds.md)). Adapters on outputs leave WavLM's attention out, and
at Mamba's kernels the first pass warns.
"""


def page() -> str:
    """The page, from the models as they are."""
    from model_types import ARCHITECTURES

    rows: dict[tuple[str, ...], list[str]] = {}
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            model = architecture.model(name)
        found = sheet(model)
        rows.setdefault(tuple(_cell(kind, found) for kind in COLUMNS), []).append(name)
    lines = ((", ".join(names), *cells) for cells, names in rows.items())
    title = f"## The {len(ARCHITECTURES)} that were tried\n\nNames below the blocks; those with the same share a row.\n"
    return f"{HEAD}\n{title}\n{table(('architectures', *COLUMNS), lines)}"


def _cell(kind: str, found: Sheet) -> str:
    """The modules of a kind, named below their blocks; lists in blocks by their first."""
    if kind not in found.defaults:
        return ""
    lines = (line for block in found.blocks if block.by_default for line in block.lines if kind in line.kinds)
    return " ".join(f"`{name}`" for name in dict.fromkeys(re.sub(r"\d+(?=\.)", "*", line.name) for line in lines))


if __name__ == "__main__":
    write(PAGE, page())
    print(PAGE)
