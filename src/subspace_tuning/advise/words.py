"""The advice in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from subspace_tuning.advise.candidates import Candidate
from subspace_tuning.advise.prior import LEAD, Predictor, kappa_leads

CAN = {"merges": "merges", "LoRA export": "loads as a plain LoRA", "quantised base": "trains on a quantised base"}


def verdict(found: Sequence[Predictor]) -> str:
    """What the committed studies say of kappa as a predictor."""
    over = {p.name: p for p in found if p.study == "all"}
    if not {"kappa", "parameters", LEAD} <= set(over):
        return "Whether kappa predicts scores has not been judged: the filters and the measured tables lead."
    kappa, count, lead = (over[name] for name in ("kappa", "parameters", LEAD))
    told = f"rank correlation with the score {_rho(kappa)}, that of the number of parameters {_rho(count)}"
    if kappa_leads(found):
        return f"In the committed studies kappa ordered methods better than their size did ({told}): it leads here."
    if kappa.low > 0:
        said = "kappa predicted scores no better than the number of parameters did"
    else:
        said = "kappa predicted nothing"
    return (
        f"In the committed studies {said} ({told}; difference {_rho(lead)}): the filters and the measured tables lead."
    )


def _rho(p: Predictor) -> str:
    return f"{p.rho:+.2f} [{p.low:+.2f}, {p.high:+.2f}]"


def reasons(c: Candidate, total: int) -> list[str]:
    """Why a candidate is on the list, and what it costs; ``total``: parameters of the model."""
    told = [_measured(c), f"{c.parameters:,} parameters, {1000 * c.parameters / total:.2f} per mille"]
    if c.family is not None:
        first = f"its first step can take {_share(c.family.start)} of the gradient's energy"
        best = "" if c.family.kappa is None else f", its family {_share(c.family.kappa)}"
        told.append(first + best)
    if can := [words for ability, words in CAN.items() if ability in c.entry.abilities]:
        told.append(", ".join(can))
    if c.time is not None:
        told.append(f"a step takes {c.time:.2f} of the floor (measured on another model)")
    if c.memory is not None:
        told.append(f"a step needs about {c.memory / 1e9:.2f} GB")
    return told


def _measured(c: Candidate) -> str:
    if c.evidence is None:
        return "not in the measured tables"
    each = ", ".join(f"{task} {100 * points:+.1f}" for task, points in c.evidence.points.items())
    return f"measured beside LoRA r=8, in points: {each}"


def _share(part: float) -> str:
    return f"{100 * part:.2g} %"


def concentration(energies: Sequence[tuple[str, float]]) -> str:
    """How few weights hold half of the gradient's energy; (name, share) in descending order."""
    held, names = 0.0, []
    for name, share in energies:
        held += share
        names.append(name)
        if held >= 0.5:
            break
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"Half of the gradient's energy is in {len(names)} of {len(energies)} weights: {shown}."
