"""Turns adapters that PEFT trained into plain LoRA by PEFT's own conversion and by `subspace export`, side by side.

PiSSA and OLoRA change the base weight when they start, DoRA rescales it: a conversion that looks at A and B alone
misses that. Each is trained for a few steps on the default encoder, converted both ways, and loaded by PEFT onto the
untouched base model. Errors are ||dW_converted - dW|| / ||dW|| over all layers, with dW of the trained model itself.
Usage, from the repository's root:

    python benchmarks/conversion_errors.py [--steps 20] [--rank 8]

Prints the table and writes runs/conversion-errors/errors.json.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from subspace_tuning.convert.export import export
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.convert.probe import TEXTS
from subspace_tuning.files.assets import default_model

OUT = Path("runs/conversion-errors")
KINDS = {
    "LoRA": {},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "DoRA": {"use_dora": True},
}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    names = ("query", "key", "value", "dense")
    linear = {k: m for k, m in model.named_modules() if isinstance(m, nn.Linear) and k.endswith(names)}
    return {k: m.weight.detach().double().clone() for k, m in linear.items()}


def train(model: nn.Module, tokenizer, steps: int) -> None:
    """Push the sentences' means apart: any loss will do that moves every layer."""
    tokens = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    trained = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(steps):
        means = nn.functional.normalize(model(**tokens).last_hidden_state.mean(1), dim=-1)
        loss = (means @ means.T).triu(1).sum()
        loss.backward()
        trained.step()
        trained.zero_grad()


def converted_by_peft(model: PeftModel, rank: int, folder: Path) -> None:
    config, state = convert_to_lora(model, rank=rank)
    config.save_pretrained(str(folder))
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")


def errors(kind: str, steps: int, r: int) -> Iterator[tuple[str, float | str]]:
    where = str(default_model())
    base, tokenizer = weights(AutoModel.from_pretrained(where)), AutoTokenizer.from_pretrained(where)

    def error(folder: Path) -> float:
        loaded = weights(PeftModel.from_pretrained(AutoModel.from_pretrained(where), str(folder)).merge_and_unload())
        gap = sum((loaded[k] - truth[k]).square().sum() for k in base)
        return (gap / sum((truth[k] - base[k]).square().sum() for k in base)).sqrt().item()

    torch.manual_seed(0)
    config = LoraConfig(r=r, lora_alpha=r, target_modules=["query", "key", "value", "dense"], **KINDS[kind])
    model = get_peft_model(AutoModel.from_pretrained(where), config)
    train(model, tokenizer, steps)
    with tempfile.TemporaryDirectory() as aside:
        saved, peft, ours = (Path(aside, name) for name in ("saved", "peft", "ours"))
        model.save_pretrained(str(saved))
        model.eval()
        peft.mkdir()
        refused = None
        try:
            converted_by_peft(model, 2 * r, peft)
        except TypeError as said:
            refused = str(said)
        truth = weights(model.merge_and_unload())
        yield "PEFT", error(peft) if refused is None else f"refused: {refused}"
        wanted = Wanted(rank=2 * r, max_error=1.0) if kind == "DoRA" else Wanted()
        yield f"ours, rank {2 * r}" if kind == "DoRA" else "ours", _ours(saved, ours, where, wanted, error)
        if kind == "DoRA":
            yield "ours, --exact", _ours(saved, Path(aside, "exact"), where, Wanted(exact=True), error)


def _ours(saved: Path, out: Path, base: str, wanted: Wanted, error) -> float:
    certificate = export(saved, out, "lora", wanted, base)
    measured = error(out)
    assert abs(certificate.error - measured) < 1e-3 + 0.05 * measured, (certificate.error, measured)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=8)
    args = parser.parse_args()
    logging.disable_progress_bar()
    found: dict[str, dict[str, float | str]] = {}
    for kind in KINDS:
        found[kind] = {}
        for who, error in errors(kind, args.steps, args.rank):
            found[kind][who] = error
            print(f"{kind:8}{who:16}{error if isinstance(error, str) else f'{error:.2e}'}", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "errors.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
