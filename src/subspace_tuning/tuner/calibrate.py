"""The calibration pass: what methods want to know of the data before training starts.

Some methods choose what to train, or where to start, by looking at a few batches: FishMask by the Fisher information of
W, LoRA by the activations (``init="eva"``, ``"corda"``) or the gradient (``init="lora_ga"``). A method names what it
asks for in ``calibration`` and answers in ``calibrated``; one pass over the batches serves all layers. The base model
stays as it is, and W needs no gradient: all follows from the rows x that enter a layer and the gradient dy that
comes back to its output.

    activations  X^T X / rows            (n, n)
    gradients    dL/dW, the mean         (n, m)
    fisher       (dL/dW)^2, the mean     (n, m), of single examples
    biases       dL/db, the mean         (m,)

They are kept in single precision on the model's device until the pass is over: about two to three times the memory of
the tuned weights.

Fused experts have a statistic each, of the examples whose tokens are sent there. Their rows do not say which example
they come from, or which are padding: so each example makes a pass of its own, without its padding. An expert that no
token reaches starts from what all experts of its parameter saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.model import layers
from subspace_tuning.weights.experts import Experts

Loss = Callable[[nn.Module, Any], Tensor]


class Statistic:
    """A mean over the data, of what one layer sees: x (b, t, n) and dy (b, t, m)."""

    needs_gradient = True

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def see(self, x: Tensor, dy: Tensor) -> None:
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total / self.count)


class Activations(Statistic):
    needs_gradient = False

    def see(self, x: Tensor, dy: Tensor) -> None:
        X = x.flatten(0, 1)
        self.total = self.total + X.T @ X
        self.count += int(X.any(1).sum())  # padding enters as zeros


class Gradients(Statistic):
    def see(self, x: Tensor, dy: Tensor) -> None:
        self.total = self.total + len(x) * (x.flatten(0, 1).T @ dy.flatten(0, 1))  # the loss is a mean over the batch
        self.count += len(x)


class Fisher(Statistic):
    def see(self, x: Tensor, dy: Tensor) -> None:
        for X, dY in zip(x, dy, strict=True):
            self.total = self.total + (len(x) * (X.T @ dY)).square()
        self.count += len(x)


class Biases(Statistic):
    def see(self, x: Tensor, dy: Tensor) -> None:
        self.total = self.total + len(dy) * dy.flatten(0, 1).sum(0)
        self.count += len(dy)


STATISTICS: dict[str, type[Statistic]] = {
    "activations": Activations,
    "gradients": Gradients,
    "fisher": Fisher,
    "biases": Biases,
}


def needs_calibration(model: nn.Module) -> bool:
    """Whether an active adapter of the model still waits for its calibration pass."""
    return any(layer.uncalibrated & set(layer.active_adapters) for layer in layers(model))


def calibrate(model: nn.Module, batches: Iterable[Any], *, loss: Loss | None = None, progress: bool = True) -> None:
    """Let the active adapters start from what a few batches say: call it once, before training.

    batches: mappings of a model's keywords, labels among them; take a handful, ``itertools.islice(loader, 8)``.
    loss: (model, batch) -> loss, for models that return none of their own.

    The model runs in eval mode, without dropout; no parameter's ``.grad`` is touched. Raises ValueError where no
    adapter asks for a calibration, where there is nothing to learn from, and where experts are asked and a batch does
    not say what its examples are.
    """
    asked = {layer: names for layer in layers(model) if (names := _asked(layer))}
    if not asked:
        raise ValueError("no active adapter asks for a calibration; methods that do: fishmask, lora(init='eva'), ...")
    found = observe(model, batches, asked, loss=loss, progress=progress)
    if len(found) < len(asked):
        raise ValueError("the calibration saw no data reach some tuned layers; give calibrate() a batch or more")
    for layer, means in found.items():
        for adapter in _active(layer):
            method = layer.methods[adapter]
            values = [method.calibrated(part.W, own) for part, own in zip(layer.parts, means, strict=True)]
            layer.restart(adapter, layer.together(values))


def observe(
    model: nn.Module,
    batches: Iterable[Any],
    asked: Mapping[SubspaceLayer, Iterable[str]],
    *,
    loss: Loss | None = None,
    progress: bool = True,
) -> dict[SubspaceLayer, list[dict[str, Tensor]]]:
    """The means over the batches of the statistics that are asked of tuned layers: of each, a list over its weights.

    Layers that no data reached are left out. Raises ValueError as ``calibrate`` does.
    """
    found = {layer: [{name: STATISTICS[name]() for name in asked[layer]} for _ in layer.parts] for layer in asked}
    needs_gradient = any(s.needs_gradient for each in found.values() for s in each[0].values())
    apart = any(isinstance(layer.base_layer, Experts) for layer in asked)
    training = model.training
    model.eval()
    try:
        shown = tqdm(batches, desc="calibrating", leave=False, disable=None if progress else True)
        for batch in (one for given in shown for one in (_examples(given) if apart else [given])):
            with _watched(found, _mask(batch)) as anchor, torch.set_grad_enabled(needs_gradient):
                value = (loss or _own_loss)(model, _moved(batch, _device(model)))
                if needs_gradient:
                    _reach(value, anchor)
    finally:
        model.train(training)
    return {layer: _means(each) for layer, each in found.items() if _seen(each)}


def _active(layer: SubspaceLayer) -> list[str]:
    return [a for a in layer.active_adapters if a in layer.methods]


def _asked(layer: SubspaceLayer) -> list[str]:
    return sorted({name for a in _active(layer) for name in layer.methods[a].calibration})


def _seen(each: list[dict[str, Statistic]]) -> bool:
    return all(any(own[name].count for own in each) for name in each[0])


def _means(each: list[dict[str, Statistic]]) -> list[dict[str, Tensor]]:
    """Of the weights of a layer one by one; one that saw nothing has the mean of what all saw."""
    common: dict[str, Tensor] = {}
    for name in each[0]:
        if any(not own[name].count for own in each):
            common[name] = torch.as_tensor(sum(own[name].total for own in each) / sum(own[name].count for own in each))
    return [{name: s.mean if s.count else common[name] for name, s in own.items()} for own in each]


@contextmanager
def _watched(found: dict[SubspaceLayer, list[dict[str, Statistic]]], mask: Tensor | None) -> Iterator[Tensor]:
    """While it lasts, the layers feed their statistics. Gradients flow to the anchor that it yields, through each of
    the layers' outputs, as if it were added to them.
    """
    anchor = torch.zeros((), requires_grad=True)

    def watch(each: list[dict[str, Statistic]], layer: Any, args: tuple[Any, ...], y: Tensor) -> Tensor:
        shares = layer.shares(*args)

        def feed(dy: Tensor, of_gradient: bool = True) -> None:
            for i, x, of in shares:
                for statistic in each[i].values():
                    if statistic.needs_gradient == of_gradient:
                        _feed(statistic, x, of(dy), None if of_gradient else mask)

        feed(y.detach(), of_gradient=False)
        if torch.is_grad_enabled():
            y = y + anchor.to(y)
            y.register_hook(feed)
        return y

    handles = [layer.register_forward_hook(partial(watch, each)) for layer, each in found.items()]
    try:
        yield anchor
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _feed(statistic: Statistic, x: Tensor, dy: Tensor, mask: Tensor | None) -> None:
    """x (b, ..., n) and dy (b, ..., m) in single precision or better, padding set to zero where a mask (b, t) fits."""
    if mask is not None and mask.shape == x.shape[:-1]:
        x = x * mask.to(x).unsqueeze(-1)
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dy = (rows.reshape(len(rows), -1, rows.shape[-1]).to(wide) for rows in (x, dy))
    statistic.see(x, dy)


def _reach(value: Any, anchor: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            "the model returned no loss: give calibrate() batches with labels, or loss=lambda model, batch: ..."
        )
    torch.autograd.grad(value, anchor)


def _own_loss(model: nn.Module, batch: Any) -> Any:
    return getattr(model(**batch), "loss", None)


def _examples(batch: Any) -> Iterator[Any]:
    """The examples of a batch, each as a batch of one without its padding. Raises ValueError for what has no rows."""
    held = batch if hasattr(batch, "items") else {"": batch}
    tensors = {k: v for k, v in held.items() if isinstance(v, Tensor) and v.dim()}
    if len({len(v) for v in tensors.values()}) != 1:
        raise ValueError(
            "experts are calibrated example by example: give calibrate() batches as a tensor, or a mapping of tensors, "
            "with a row an example"
        )
    mask = _mask(batch)
    for i in range(len(next(iter(tensors.values())))):
        kept = None if mask is None or mask.dim() != 2 else mask[i].bool()
        one = {
            k: v[i : i + 1] if kept is None or v.shape[:2] != mask.shape else v[i : i + 1, kept]  # type: ignore[union-attr]
            for k, v in tensors.items()
        }
        yield {**held, **one} if held is batch else one[""]


def _mask(batch: Any) -> Tensor | None:
    return batch.get("attention_mask") if hasattr(batch, "get") else None


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _moved(batch: Any, device: torch.device) -> Any:
    if hasattr(batch, "items"):
        return {k: _moved(v, device) for k, v in batch.items()}
    return batch.to(device) if isinstance(batch, Tensor) else batch
