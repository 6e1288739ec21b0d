"""What did training do? Every layer of an adapter or a fine-tuned model, looked at through its subspaces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import degrees
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.bench import memory
from subspace_tuning.convert.change import Change
from subspace_tuning.convert.probe import differences
from subspace_tuning.errors import BadInput, few
from subspace_tuning.files.aside import write
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.linalg.svd import SVD, svd
from subspace_tuning.run.skeleton import split
from subspace_tuning.theory import subspaces as s
from subspace_tuning.theory.findings import Findings, Found, done
from subspace_tuning.theory.layers_shared_out import Make, each
from subspace_tuning.theory.places import pattern_of
from subspace_tuning.theory.project import optimal_scale
from subspace_tuning.theory.trained import Answers, Layer, Trained, trained
from subspace_tuning.version import VERSION

KEPT = 128  # singular values of each spectrum that are told
SCALES = (0.0, 0.25, 0.5, 0.75)  # of intruders


@dataclass(frozen=True)
class Look:
    """What to look at, and how closely."""

    r: int = 8  # leading singular vectors whose turning and likeness is measured
    energy: float = 0.9  # of W, within the subspaces that count as its span
    intruders: int = 10  # leading singular vectors that are looked at
    epsilon: float = 0.5  # below this cosine a singular vector is an intruder
    scales: tuple[float, ...] | None = None  # of intruders, to see what they do; () for none, else where memory allows
    layers: str | None = None  # a regular expression that finds names of layers


def analyze(
    given: Path | str,
    base: str | None = None,
    versus: Path | str | None = None,
    target: Path | str | None = None,
    look: Look | None = None,
    tick: Callable[[int], None] = lambda total: None,
    workers: int = 1,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Plain data about what training did to each weight, and to the model. One weight is in memory at a time.

    A whole model is, where there are intruders and ``look.scales``: what they do is seen in its answers. Without scales
    of one's own that is done where the model takes less than half of the memory that is free.

    versus: another adapter or model of the same base (another seed, rank or method) whose dW is compared.
    target: a fully fine-tuned W*; tells the scale s* at which dW would come nearest to it (1: as it is).
    workers: processes that share the layers out among themselves; they find the same.
    out: the folder that ``save`` is to make; what is found is kept beside it until then, and found only once.
    """
    look = look or Look()
    with ExitStack() as stack:
        subject, find = stack.enter_context(_finder(given, base, target, look))
        wanted = pattern_of(look.layers)
        names = [name for name in subject.names if wanted is None or wanted.search(name)]
        seen = Findings(None if out is None else Path(out), _work(given, subject, target, look))
        left = [name for name in names if name not in seen]
        for _ in range(len(names) - len(left)):
            tick(len(names))
        for name, layer in each(left, find, partial(_apart, given, base, target, look), workers):
            seen[name] = layer
            tick(len(names))
        found = {name: layer for name in names if (layer := seen[name]) is not None}
        if not found:
            raise BadInput(
                f"{given} changes no weight matrix"
                + (f" that {look.layers!r} finds" if look.layers else "")
                + (f"; what changed is {few(subject.left_out)}" if subject.left_out else "")
            )
        data: dict[str, Any] = {
            "made_by": f"subspace-tuning {VERSION}",
            "source": str(given),
            "base": subject.base,
            "methods": subject.methods,
            "look": vars(look),
            "summary": _summary([layer.told for layer in found.values()]),
            "layers": {name: layer.told for name, layer in found.items()},
            "left_out": subject.left_out,
            "between_layers": between_layers({name: layer.change for name, layer in found.items()}),
        }
        if versus is not None:
            other = stack.enter_context(trained(versus, base or subject.base))
            data["versus"] = {"source": str(versus), **_versus(found, other, look.r)}
        if subject.answers and look.scales != () and any(layer.told["intruders"] for layer in found.values()):
            if look.scales is None and (why := _too_large(subject.base)):
                data["scaling_intruders_left_out"] = why
            else:
                data["scaling_intruders"] = _scaling(subject.answers(), found, look.scales or SCALES)
        return data


Find = Make[str, Found | None]


@contextmanager
def _finder(
    given: Path | str, base: str | None, target: Path | str | None, look: Look
) -> Iterator[tuple[Trained, Find]]:
    """What training may have changed, and how a layer is looked at."""
    with ExitStack() as stack:
        subject = stack.enter_context(trained(given, base))
        ideal = stack.enter_context(trained(target, base or subject.base)) if target else None

        def find(name: str) -> Found | None:
            layer = subject.read(name)
            wanted = ideal.read(name) if ideal is not None and name in ideal.names else None
            return None if layer is None else _found(layer, look, wanted)

        yield subject, find


@contextmanager
def _apart(given: Path | str, base: str | None, target: Path | str | None, look: Look) -> Iterator[Find]:
    """The same in another process."""
    with _finder(given, base, target, look) as (_, find):
        yield find


def _work(given: Path | str, subject: Trained, target: Path | str | None, look: Look) -> list[Any]:
    """What the findings on a layer depend on."""
    files = [Checkpoint(name).digest() for name in (given, subject.base, target) if name is not None]
    return [VERSION, files, subject.methods, look.r, look.energy, look.intruders, look.epsilon]


def _too_large(base: str) -> str:
    """Why the model is not loaded, where it is too large for that to be done unasked."""
    needed, free = 4 * Checkpoint(base).total / 2**30, memory.available() / 2**30
    if needed < free / 2:
        return ""
    return f"the model would take {needed:.1f} GB of the {free:.1f} GB that are free; --scales asks for it"


def _found(layer: Layer, look: Look, ideal: Layer | None) -> Found:
    W, change = layer.W, layer.change
    dW = change.dense()
    before, after, terms = svd(W), svd(W + dW), change.svd
    r = min(look.r, len(before.S))
    turned = s.rotation(before, after, r)
    share = s.inside(before, dW, look.energy)
    which = s.intruders(before, after, look.intruders, look.epsilon)
    told: dict[str, Any] = {
        "shape": list(W.shape),
        "relative_change": (dW.norm() / W.norm()).item(),
        "singular_values": {k: t.S[:KEPT].tolist() for k, t in _three(before, after, terms)},
        "effective_rank": {k: s.effective_rank(t.S) for k, t in _three(before, after, terms)},
        "stable_rank": {k: s.stable_rank(t.S) for k, t in _three(before, after, terms)},
        "angles": {"left": _degrees(turned.left), "right": _degrees(turned.right)},
        "amplification": s.amplification(W, terms, min(r, len(terms.S))),
        "inside": share._asdict(),
        "intruders": which,
    }
    if layer.factors is not None:
        told["patterns"] = s.patterns(*layer.factors)._asdict()
    if ideal is not None:
        told["optimal_scale"] = optimal_scale(W, W + ideal.change.dense(), dW)
    intruding = SVD(after.U[:, which], after.S[which], after.Vt[which])
    return Found(told, terms.top(look.r), intruding)


def _three(before: SVD, after: SVD, change: SVD) -> list[tuple[str, SVD]]:
    return [("before", before), ("after", after), ("change", change)]


def _degrees(angles: Tensor) -> list[float]:
    return [degrees(a) for a in angles.tolist()]


def _summary(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over layers."""
    told = {
        "layers": len(layers),
        "relative_change": fmean(x["relative_change"] for x in layers),
        "stable_rank_of_change": fmean(x["stable_rank"]["change"] for x in layers),
        "effective_rank_of_change": fmean(x["effective_rank"]["change"] for x in layers),
        "largest_angle": fmean(max(x["angles"]["left"] + x["angles"]["right"]) for x in layers),
        "inside": fmean(x["inside"]["share"] for x in layers),
        "inside_by_chance": fmean(x["inside"]["chance"] for x in layers),
        "intruders": sum(len(x["intruders"]) for x in layers),
    }
    scales = [x["optimal_scale"] for x in layers if "optimal_scale" in x]
    return told | ({"optimal_scale": fmean(scales)} if scales else {})


def between_layers(changes: dict[str, SVD]) -> dict[str, Any]:
    """For each kind of module, psi of the leading terms of dW between all its layers of one shape, on either side."""
    kinds: dict[tuple[str, int, int], list[str]] = {}
    for name, terms in changes.items():
        kinds.setdefault((split(name)[1], len(terms.U), terms.Vt.shape[1]), []).append(name)
    told = {}
    for (kind, n, m), names in kinds.items():
        if len(names) > 1:
            sides = {"left": [changes[k].U for k in names], "right": [changes[k].Vt.T for k in names]}
            widest = max(len(changes[k].S) for k in names)
            told[kind] = {
                "layers": [split(k)[0] for k in names],
                "chance": {"left": widest / n, "right": widest / m},
                **{side: [[_whole(X, Y) for Y in bases] for X in bases] for side, bases in sides.items()},
            }
    return told


def _whole(X: Tensor, Y: Tensor) -> float:
    return s.similarity(X, Y)[-1, -1].item()


def _versus(found: dict[str, Found], other: Trained, r: int) -> dict[str, Any]:
    """psi(i, j) between the leading singular vectors of two dW, layer by layer and on average."""
    layers, sums = {}, []
    for name, layer in found.items():
        match = other.read(name) if name in other.names else None
        if match is None or match.change.shape != tuple(layer.told["shape"]):
            continue
        theirs, (n, m) = match.change.svd.top(r), match.change.shape
        left = s.similarity(layer.change.U, theirs.U)
        right = s.similarity(layer.change.Vt.T, theirs.Vt.T)
        widest = max(left.shape)
        chance = {"left": widest / n, "right": widest / m}
        layers[name] = {"left": left[-1, -1].item(), "right": right[-1, -1].item(), "chance": chance}
        sums.append((left, right))
    if not layers:
        raise BadInput("the two have no changed layer in common")
    shape = min(a.shape[0] for a, _ in sums), min(a.shape[1] for a, _ in sums)
    mean = {
        side: torch.stack([pair[k][: shape[0], : shape[1]] for pair in sums]).mean(0).tolist()
        for k, side in enumerate(("left", "right"))
    }
    return {"layers": layers, "mean": mean}


def _scaling(models: Answers, found: dict[str, Found], scales: Sequence[float]) -> list[dict[str, float]]:
    """What scaling intruders down does to the logits: their distance to the trained and to the base model's."""
    base, ours = models.base(), models.trained({})
    intruding = {name: layer.intruding for name, layer in found.items() if len(layer.intruding.S)}
    told = []
    for scale in sorted({*scales, 1.0}):
        now = models.trained({k: Change(((scale - 1) * U * S, Vt)) for k, (U, S, Vt) in intruding.items()})
        to_ours, to_base = differences(ours, now), differences(base, now)
        told.append(
            {
                "scale": scale,
                "to_trained": to_ours.mean,
                "to_base": to_base.mean,
                "agreement_with_trained": to_ours.agreement,
                "agreement_with_base": to_base.agreement,
            }
        )
    return told


def save(data: dict[str, Any], folder: Path | str) -> list[Path]:
    """Write analysis.json and the pictures to a folder; returns what was written."""
    from subspace_tuning.theory.pictures import draw

    path = Path(folder) / "analysis.json"
    write(path, json.dumps(data, indent=2) + "\n")
    drawn = draw(data, path.parent)
    done(path.parent)
    return [path, *drawn]
