"""What contains what among the methods, each with its proof: the parameters of one in those of the other.

Both ways, two methods are equal: they reach the same weights, by parameters that train differently. What follows from
two of these relations is left out.
"""

from __future__ import annotations

from subspace_tuning.methods.relations import beside, entries, low_rank, rotations, spectrum, whole

RELATIONS = (
    *low_rank.RELATIONS,
    *beside.RELATIONS,
    *spectrum.RELATIONS,
    *entries.RELATIONS,
    *rotations.RELATIONS,
    *whole.RELATIONS,
)


def relations_of(name: str) -> list[str]:
    """What a method contains, is contained in and equals, a line each."""
    found: dict[str, list[str]] = {}
    for relation in RELATIONS:
        outer, inner = relation.names
        if name in (outer, inner):
            other = inner if name == outer else outer
            found.setdefault(other, []).append(f"{'contains' if name == outer else 'is in'}: {relation.when}")
    return [_told(other, said) for other, said in sorted(found.items())]


def _told(other: str, said: list[str]) -> str:
    kinds = dict(line.split(": ", 1) for line in said)
    if len(kinds) == 1:
        return "".join(f"{kind} `{other}` ({when})" for kind, when in kinds.items())
    if len(set(kinds.values())) == 1:
        return f"equals `{other}` ({kinds['contains']})"
    return f"equals `{other}`: contains it ({kinds['contains']}) and is in it ({kinds['is in']})"
