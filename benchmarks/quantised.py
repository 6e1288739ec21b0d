"""What methods do on quantised bases, tried out: makes docs/data/quantised.json, the picture and the tables of
docs/quantised.md. Nothing in it depends on speed.

    python benchmarks/quantised.py methods curves    # or one of them; without, the page from the file that is there
    python benchmarks/quantised.py methods --kinds HQQ    # these alone anew

methods: every method on every kind of base, on a tiny language model with random weights: twenty steps, saved and read
again, merged into the quantised weights.
curves: three methods on MiniLM and movie reviews, by the quantisers of transformers: the loss beside that on the
unquantised base, and the certificate of merging what was trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from subspace_tuning import METHODS, SubspaceConfig, build, calibrate
from subspace_tuning.convert import merge_certificate
from subspace_tuning.files.aside import write
from subspace_tuning.files.assets import default_model, movie_reviews
from subspace_tuning.files.figure import save
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.method.catalogue import SMALL

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PAGE, DATA, PICTURE = (ROOT / "docs" / name for name in ("quantised.md", "data/quantised.json", "pictures/quantised"))
TARGETS, SEED = ["q_proj", "down_proj"], 0
STEPS, RATE = 20, 1e-2
TRAINED = {"lora": 1e-3, "dora": 1e-3, "ssb": 1e-2}  # method -> learning rate
CURVE, BATCH, LENGTH, SMOOTH = 30, 8, 32, 6
PLAIN = "none"


def tiny() -> nn.Module:
    torch.manual_seed(SEED)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=40, max_position_embeddings=32))
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.2)
    return model


def kinds() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """Layers by the libraries' own quantisers; the last one is a layer of which nothing is known."""
    import quantised

    return {
        "bitsandbytes int8": quantised.int8,
        "bitsandbytes NF4": quantised.nf4,
        "quanto int8": quantised.quanto,
        "quanto int4": quantised.quanto4,
        "torchao int8": quantised.torchao8,
        "torchao int4": quantised.torchao4,
        "HQQ": quantised.hqq,
        "any other": quantised.Packed,
    }


def with_bias(layer: nn.Linear) -> nn.Linear:
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(layer.out_features))
    return layer


def base(make: Callable[[nn.Linear], nn.Module] | None) -> nn.Module:
    model = tiny()
    for name in [name for name, _ in model.named_modules() if name.rpartition(".")[2] in TARGETS]:
        layer = with_bias(model.get_submodule(name))
        model.set_submodule(name, layer if make is None else make(layer))
    return model.requires_grad_(False)


def tried(name: str, make: Callable[[nn.Linear], nn.Module] | None) -> dict[str, Any]:
    """One method on one base: its losses, whether it comes back from disk, and what merging keeps."""
    method = METHODS[name]().with_fields(**SMALL)
    ids = torch.randint(40, (8, 12), generator=torch.Generator().manual_seed(SEED))
    model = get_peft_model(base(make), SubspaceConfig(method=method, target_modules=TARGETS))
    if method.calibration:
        calibrate(model, [{"input_ids": ids, "labels": ids}])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    losses = []
    for _ in range(STEPS + 1):
        loss = model.train()(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step(), optimiser.zero_grad()
    model.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        again = PeftModel.from_pretrained(base(make), folder).eval()
        gap = (again(input_ids=ids).logits - model(input_ids=ids).logits).abs().max().item()
    found = {"start": losses[0], "end": losses[-1], "read_again": gap}
    if METHODS[name].mergeable and make is not None:
        found |= merged(model)
    return found


def merged(model: PeftModel, tokenizer: Any = None) -> dict[str, Any]:
    """The certificate in short."""
    try:
        told = merge_certificate(model, tokenizer)
    except ValueError as error:
        return {"refused": str(error)}
    codes = [layer.codes for layer in told.layers.values() if layer.codes is not None]
    return {
        "error": told.error,
        "largest": told.largest_error,
        "codes": sum(codes) / len(codes) if codes else None,
        "logits": told.logits.mean,
        "moved": told.moved.mean,
        "agreement": told.logits.agreement,
    }


def every_method(known: dict[str, Any], wanted: list[str]) -> dict[str, dict[str, Any]]:
    """What is known already, with the wanted kinds of base tried anew, or all of them."""
    names = [name for name in sorted(METHODS) if METHODS[name].sits_on not in ("tokens", "block")]
    makers: dict[str, Any] = {PLAIN: None, **kinds()}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        print(name, flush=True)
        new = {kind: attempt(name, make) for kind, make in makers.items() if kind in (wanted or makers)}
        both = {**known.get(name, {}), **new}
        found[name] = {kind: both[kind] for kind in makers if kind in both}
    return found


def attempt(name: str, make: Callable[[nn.Linear], nn.Module] | None) -> dict[str, Any]:
    try:
        return tried(name, make)
    except Exception as error:  # what fails is what the table is for
        return failure(error)


def failure(error: Exception) -> dict[str, Any]:
    return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def configs() -> dict[str, Any]:
    """The quantisers of transformers that run without a GPU."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
    from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    head = ["classifier"]
    return {
        PLAIN: None,
        "bitsandbytes int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=head),
        "bitsandbytes NF4": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=head
        ),
        "quanto int8": QuantoConfig(weights="int8", modules_to_not_convert=head),
        "torchao int8": TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=head),
        "torchao int4": TorchAoConfig(IntxWeightOnlyConfig(torch.int4, PerGroup(32)), modules_to_not_convert=head),
    }


def reviews(tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
    rows = movie_reviews()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED)).tolist()
    for start in range(0, CURVE * BATCH, BATCH):
        some = [rows[i] for i in order[start : start + BATCH]]
        made = tokenizer([r.text for r in some], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        yield {**made, "labels": torch.tensor([r.label for r in some])}


def curves() -> dict[str, dict[str, Any]]:
    """kind of base -> method -> its losses and the certificate of its merge."""
    folder, found = default_model(), {}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(SEED)
    head = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).classifier
    for kind, config in configs().items():
        how = {} if config is None else {"quantization_config": config, "device_map": "cpu"}
        for name, rate in TRAINED.items():
            print(kind, name, flush=True)
            try:
                model = AutoModelForSequenceClassification.from_pretrained(
                    folder, num_labels=2, dtype=torch.float32, **how
                )
                model.classifier.load_state_dict(head.state_dict())
                run = trained(model, name, rate, tokenizer)
            except Exception as error:  # what fails is what the table is for
                run = failure(error)
            found.setdefault(kind, {})[name] = run
    return found


def trained(model: nn.Module, name: str, rate: float, tokenizer: Any) -> dict[str, Any]:
    torch.manual_seed(SEED)
    tuned = get_peft_model(model, SubspaceConfig(method=build(name), task_type="SEQ_CLS"))
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=rate)
    losses = []
    for batch in reviews(tokenizer):
        loss = tuned.train()(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step(), optimiser.zero_grad()
    return {"losses": losses, **merged(tuned, tokenizer)}


def page(data: dict[str, Any]) -> str:
    """The tables, from what was found."""
    return "\n".join(
        made(data[part]) for part, made in (("methods", methods_told), ("curves", curves_told)) if part in data
    )


def methods_told(methods: dict[str, Any]) -> str:
    columns = list(next(iter(methods.values())))
    rows = (
        [f"[`{name}`](methods.md#{name})", *(_cell(found[kind]) for kind in columns)] for name, found in methods.items()
    )
    start = methods["lora"][PLAIN]["start"]
    return (
        f"\nLoss after {STEPS} steps (it starts at {start:.2f}); behind the stroke, where the method merges, what a "
        f"merge loses of its change.\n\n{table(['method', *columns], rows)}"
    )


def curves_told(runs: dict[str, Any]) -> str:
    losses = ([kind, *map(_late, by.values())] for kind, by in runs.items())
    kept = (
        [kind, f"`{name}`", *(f"{run[key]:.2g}" for key in ("error", "largest")), f"{run['codes']:.1%}"]
        + [f"{run[key]:.2g}" for key in ("logits", "moved")]
        for kind, by in runs.items()
        for name, run in by.items()
        if run.get("codes") is not None
    )
    return "\n".join(
        [
            f"![Loss on quantised bases](pictures/{PICTURE.name}.png)\n",
            f"Mean of the last {SMOOTH} of {CURVE} steps:\n",
            table(["base", *TRAINED], losses, 1),
            "\nMerging what was trained in these steps:\n",
            table(["base", "method", "error", "worst layer", "codes", "logits off by", "moved by"], kept, 2),
        ]
    )


def _cell(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"no: {found['failed']}"
    again = "" if found["read_again"] < 1e-3 else " (read again it differs)"
    error = f" / {found['error']:.2g}" if found.get("codes") is not None else " / no" if "refused" in found else ""
    return f"{found['end']:.2f}{again}{error}"


def _late(run: dict[str, Any]) -> str:
    return f"no: {run['failed']}" if "failed" in run else f"{sum(run['losses'][-SMOOTH:]) / SMOOTH:.3f}"


def picture(runs: dict[str, dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(TRAINED), sharey=True), TRAINED, strict=True):
        for kind, by in ((kind, by) for kind, by in runs.items() if "losses" in by[name]):
            losses = torch.tensor(by[name]["losses"]).unfold(0, SMOOTH, 1).mean(1)
            first = kind == PLAIN
            axes.plot(
                losses, label="unquantised" if first else kind, lw=2 if first else 1, color="black" if first else None
            )
        axes.set(title=name, xlabel="step")
    figure.axes[0].set_ylabel("loss")
    figure.axes[-1].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("parts", nargs="*", help="what is tried anew: methods, curves")
    options.add_argument("--kinds", nargs="+", default=[], help="the kinds of base that methods are tried on anew")
    made = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    given = options.parse_args()
    for part in given.parts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made[part] = every_method(made.get(part, {}), given.kinds) if part == "methods" else curves()
        write(DATA, json.dumps(made, indent=1) + "\n")
    if "curves" in made:
        save(picture(made["curves"]), PICTURE)
    write(PAGE, with_table(PAGE.read_text(encoding="utf-8"), page(made), "<!-- tried -->", PAGE.name))
    print(PAGE)
