"""Adapters as what others can load, with a certificate of what was kept.

    --to lora      a plain LoRA adapter of PEFT's: exact factors where dW has low rank, else the best of a rank
    --to peft      the type of PEFT's that computes the same, or a LoRA with the exact factors of dW
    --to merged    a plain transformers model: phi(W) in the weights, tokenizer and model card beside them

The certificate (certificate.json) says for each layer how far the written dW is from the adapter's, in Frobenius norm
relative to it, a changed bias being the last row of the augmented weight; and how far the logits of the written model,
loaded anew from disk, are from the adapter's on probe inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from subspace_tuning.convert import lora, lora_experts, lora_slices, merge
from subspace_tuning.convert.certificate import CARD, CERTIFICATE, MERGED_CARD, PEFT_CARD, Certificate, Layer
from subspace_tuning.convert.change import Change
from subspace_tuning.convert.fold import SCALES, Plan, plan
from subspace_tuning.convert.layers import changes_of, dial, frozen_weights, methods_of, seats, untie, without
from subspace_tuning.convert.lora import Fitted, Wanted
from subspace_tuning.convert.probe import Differences, Probe, answers, differences, probe
from subspace_tuning.convert.source import Source, opened
from subspace_tuning.convert.to_peft import as_peft, compared, type_of
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.adapter_folder import WEIGHTS
from subspace_tuning.files.aside import free, whole_folder
from subspace_tuning.peft_types.kind import Unequal
from subspace_tuning.run.merged import public_name, write_model
from subspace_tuning.version import VERSION
from subspace_tuning.weights import NotTaken

KINDS = ("lora", "peft", "merged")
SAME = 1e-5  # the relative error of a layer's change beyond which PEFT computes something else


def export(
    adapter: Path | str,
    out: Path | str,
    to: str = "lora",
    wanted: Wanted | None = None,
    base: str | None = None,
    texts: Sequence[str] | None = None,
    scales: str = "weight",
    strength: float = 1.0,
    dry_run: bool = False,
) -> Certificate:
    """Write one adapter as ``to``; raises BadInput, and writes nothing, where more is lost than is wanted.

    dry_run: tell what a merge would keep, and write nothing in any case.

    strength: t of phi_t, which is written: 0 is the base, 1 the adapter as it was trained.

    scales: where a merged model keeps SSL's and SSB's scales of inputs: in the weight, or in the norm before it where
    that is exact (see fold.py).
    """
    out, wanted = checked(out, to), wanted or Wanted()
    if to == "peft" and wanted != Wanted():
        raise BadInput("rank, energy, exact and max-error are for --to lora: what --to peft writes is the same")
    if scales not in SCALES or (scales == "norm" and to != "merged"):
        raise BadInput(f"scales of inputs go to the weight or, for --to merged, the norm; got {scales!r} for {to}")
    if dry_run and (to != "merged" or scales != "weight"):
        raise BadInput("a dry run tells what weights keep of a merge: it is for --to merged, without --scales norm")
    source = opened(adapter, base)
    model = source.load()
    dial(model, strength, model.active_adapters[0])
    inputs = probe(model, source.tokenizer, texts)
    changes = changes_of(model, model.active_adapters)
    before = answers(model, inputs)
    folds = plan(model, inputs) if scales == "norm" else Plan()
    job = Job(out, to, wanted, [str(adapter)], methods_of(model), source, inputs, folds)
    return job.told(model, changes, before) if dry_run else job.run(model, changes, before)


def checked(out: Path | str, to: str, kinds: Sequence[str] = KINDS) -> Path:
    """The folder to make. Raises BadInput where it is not free."""
    if to not in kinds:
        raise BadInput(f"adapters are written --to {' or '.join(kinds)}, got {to!r}")
    return free(out)


@dataclass(frozen=True)
class Job:
    """One export: where to, what from, and how it is judged."""

    out: Path
    to: str
    wanted: Wanted
    given: list[str]
    methods: list[str]
    source: Source
    inputs: Probe
    folds: Plan = field(default_factory=Plan)

    def run(self, model: PeftModel, changes: dict[str, Change], before: list[Tensor]) -> Certificate:
        for name, layer in seats(model).items() if self.to != "merged" else ():
            lora.check_holds(name, layer)
        with without(model):
            moved = differences(answers(model, self.inputs), before)
        with whole_folder(self.out) as aside:
            write = {"lora": self._lora, "peft": self._peft, "merged": self._merged}[self.to]
            layers = write(model, changes, aside)
            self._refuse(layers)
            after = answers(self._read(aside), self.inputs)
            certificate = self._certificate(layers, changes, differences(before, after), moved)
            certificate = replace(certificate, peft_type=type_of(aside))
            (aside / CERTIFICATE).write_text(certificate.to_json() + "\n", encoding="utf-8")
        return certificate

    def told(self, model: PeftModel, changes: dict[str, Change], before: list[Tensor]) -> Certificate:
        """The certificate of a merge that is not written."""
        layers, logits, moved = merge.foretold(model, changes, before, self.inputs)
        certificate = self._certificate(layers, changes, logits, moved)
        return replace(certificate, refused=merge.refusal(layers, self.wanted.max_error))

    def _lora(self, model: PeftModel, changes: dict[str, Change], folder: Path) -> dict[str, Layer]:
        fits, layers = {}, {}
        for name, change in changes.items():
            fitted = lora.fit(change, self.wanted) if change.dW is not None else None
            bias = "lost" if change.lost_bias else "unchanged"
            if fitted is None:
                layers[name] = Layer(change.shape, None, not change.lost_bias, float(change.lost_bias), False, bias)
                continue
            layers[name] = Layer(change.shape, fitted.rank, fitted.exact, fitted.error, fitted.rounding, bias)
            fits[name] = fitted
        self._refuse(layers)
        if not any(fitted.rank for fitted in fits.values()):
            raise BadInput(f"{self.given[0]} changes no weight matrix, so there is nothing that a LoRA could hold")
        self._write_lora(model, fits, folder)
        return layers

    def _write_lora(self, model: PeftModel, fits: dict[str, Fitted], folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is saved as it was trained")  # phi_t is what is written
            kept = get_peft_model_state_dict(model)  # heads and other modules that were saved whole
        weights = {k: v.detach().cpu().contiguous() for k, v in kept.items() if ".subspace_" not in k}
        about: Any = model.peft_config[model.active_adapters[0]]
        base = self.source.base if Path(self.source.base).is_dir() else public_name(self.source.base)
        named = {"base_model_name_or_path": base, "modules_to_save": about.modules_to_save}
        named |= {"task_type": about.task_type, "revision": about.revision}
        plain, fused = lora_experts.apart(seats(model), fits)
        plain, fits = lora_slices.whole(plain, fits)
        ranks = {name: fits[name].rank for name in plain}
        for name, layer in plain.items():
            weights |= lora.stored(name, layer, fits[name])
        if fused:
            of_experts = {name: stack.rank for name, stack in fused.items()}
            config, theirs = lora_experts.placed(self.source.make_base, ranks, of_experts, **named)
            weights |= lora_experts.stored(theirs, fused)
        else:
            config = lora.lora_config(self.source.make_base(), ranks, **named)
        config.save_pretrained(str(folder))
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / "README.md").write_text(
            CARD.format(base=public_name(self.source.base), made=self._made()), encoding="utf-8"
        )

    def _peft(self, model: PeftModel, changes: dict[str, Change], folder: Path) -> dict[str, Layer]:
        """PEFT's own type, or a LoRA of the exact factors; the layers are judged by what PEFT merges."""
        try:
            base = self.source.base if Path(self.source.base).is_dir() else public_name(self.source.base)
            peft_type, theirs = as_peft(model, self.source.make_base(), base)
        except Unequal as why:
            if all(change.has_factors and not change.lost_bias for change in changes.values()):
                return replace(self, wanted=Wanted(exact=True))._lora(model, changes, folder)
            raise BadInput(
                f"no type of PEFT's computes what {', '.join(self.methods)} does ({why}): --to lora writes the nearest "
                "LoRA, --to merged a plain model"
            ) from why
        theirs.save_pretrained(str(folder), save_embedding_layers=False)
        card = PEFT_CARD.format(base=public_name(self.source.base), made=self._made(), type=peft_type)
        (folder / "README.md").write_text(card, encoding="utf-8")
        return compared(theirs, seats(model), changes)

    def _merged(self, model: PeftModel, changes: dict[str, Change], folder: Path) -> dict[str, Layer]:
        layers = {}
        weights = frozen_weights(model)
        with torch.no_grad():
            for name, change in changes.items():
                untie(model, weights[name].layer)
                with as_bad_input((NotTaken,)):
                    cost, norm = self.folds.write(name, weights[name], change)
                layers[name] = merge.layer(change, cost, norm)
            self.folds.scale_norms()
        self._refuse(layers)
        merged: Any = model.unload()
        card = MERGED_CARD.format(base=public_name(self.source.base), made=self._made())
        write_model(merged, self.source.tokenizer, card, folder, like=self.source.base)
        return layers

    def _read(self, folder: Path) -> nn.Module:
        """What was written, loaded as anybody would."""
        if self.to != "merged":
            return PeftModel.from_pretrained(self.source.make_base(), str(folder))
        cls: type[PreTrainedModel] = type(self.source.make_base())
        return cls.from_pretrained(folder, use_safetensors=True)

    def _refuse(self, layers: dict[str, Layer]) -> None:
        """Raise BadInput where more is lost than was allowed."""
        if self.to == "merged":
            if why := merge.refusal(layers, self.wanted.max_error):
                raise BadInput(why)
            return
        allowed = self.wanted.allowed if self.to == "lora" else SAME
        bad = {name: layer for name, layer in layers.items() if layer.error > allowed and not layer.rounding}
        if not bad:
            return
        worst = max(bad, key=lambda name: bad[name].error)
        if self.to == "peft":
            raise BadInput(
                f"PEFT's type nearest to {', '.join(self.methods)} computes something else on {len(bad)} of "
                f"{len(layers)} layers, {worst} most, off by {bad[worst].error:.3g}: --to lora writes the nearest "
                "LoRA, --to merged a plain model"
            )
        lost = sum(layer.bias == "lost" for layer in bad.values())
        why = f"; {lost} of them change a bias, which a LoRA cannot carry: use --to merged" if lost else ""
        raise BadInput(
            f"{len(bad)} of {len(layers)} layers would lose more than {allowed:g} of their change, {worst} most with "
            f"{bad[worst].error:.3g}{why}; allow it with --max-error {math.ceil(100 * bad[worst].error) / 100:g}"
            + ("" if lost else ", or ask for a larger --rank, an --energy or --exact")
        )

    def _certificate(
        self, layers: dict[str, Layer], changes: dict[str, Change], logits: Differences, moved: Differences
    ) -> Certificate:
        return Certificate.of(
            layers,
            {name: changes[name].size() for name in layers},
            source=[Path(given).name for given in self.given],
            methods=self.methods,
            base=public_name(self.source.base),
            to=self.to,
            asked=asdict(self.wanted),
            probe=self.inputs.told,
            logits=logits,
            moved=moved,
            norms=self.folds.told,
        )

    def _made(self) -> str:
        return f"{', '.join(self.methods)} by [subspace-tuning](https://pypi.org/project/subspace-tuning/) {VERSION}"
