"""What each weight of a block is for, read off names (hints), sizes and order (evidence).

An attention is a module with a query, a key and a value, or with one weight for all three; its output is the next
weight that takes as much as the values make and gives back what the queries take. A feed-forward is a weight that
widens and one that undoes it. A state-space mixer goes in and out beside a decay of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

ATTENTION, CROSS, FEED_FORWARD, STATE_SPACE, EXPERTS, OTHER = (
    *("attention", "cross-attention", "feed-forward", "state-space", "experts"),
    "other",
)
QUERY, KEY, VALUE, OUTPUT, UP, GATE, DOWN, IN, OUT = (
    *("query", "key", "value", "output", "up", "gate", "down"),
    *("in", "out"),
)
QKV, KV, GATE_UP = f"{QUERY}+{KEY}+{VALUE}", f"{KEY}+{VALUE}", f"{GATE}+{UP}"

_CALLED = {"q": QUERY, "query": QUERY, "receptance": QUERY, "k": KEY, "key": KEY, "v": VALUE, "value": VALUE}
_CALLED |= {"queries": QUERY, "keys": KEY, "values": VALUE}
_FUSED = {
    "qkv": QKV,
    "query_key_value": QKV,
    "c_attn": QKV,
    "att": QKV,
    "in": QKV,
    "kv": KV,
    "key_value": KV,
    "keys_values": KV,
}
_LOW_RANK = {"q_a": "query_latent", "q_b": QUERY, "kv_a": "key_value_latent", "kv_b": KV}
_OUTPUTS = {"o", "out", "output", "dense", "proj", "projection", "c", "post", "conv1d"}
_ASIDE = re.compile(
    r"(^|_)(pos|position|rel|relative|r|adapter|adapters|bottleneck|router|downsample|bias|reduction)(_|$)"
)


@dataclass(frozen=True)
class Weight:
    """A weight by its name below the block, W in R^{n x m}."""

    name: str
    n: int
    m: int

    @property
    def stem(self) -> str:
        """The name without that of a layer which is wrapped: q_proj.linear -> q_proj."""
        return self.name.removesuffix(".linear")

    @property
    def parent(self) -> str:
        return self.stem.rpartition(".")[0]

    @property
    def called(self) -> str:
        """Its own name without the words that say that it is a weight: q_proj, Wq, q_lin -> q."""
        name = re.sub(r"^W(?=[a-z_])", "", self.stem.rpartition(".")[2]).lower()
        name = re.sub(r"^(to|linear|lin|fc|w|project|projection|proj)_(?=[a-z])", "", name)
        return re.sub(r"(_(proj|projection|lin|linear|head|layer|global|with_mqa|weight))+$", "", name)

    @property
    def is_aside(self) -> bool:
        """Whether its name says that it is beside the block's main path: positions, routers, adapters."""
        return any(_ASIDE.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part).lower()) for part in self.name.split("."))


Roles = dict[str, tuple[str, str]]  # name -> (part, role)


def roles(weights: list[Weight], state_spaces: Iterable[str] = ()) -> Roles:
    """Part and role of each weight of a block. ``state_spaces``: the modules that keep a decay of their own."""
    found: Roles = {}
    for space in state_spaces:
        _state_space([w for w in weights if w.parent == space], found)
    free = [w for w in weights if w.name not in found and not w.is_aside]
    widths = _attentions(free, found)
    _feed_forwards([w for w in free if w.name not in found], widths, found)
    for w in weights:
        found.setdefault(w.name, (OTHER, "router" if w.called in ("gate", "router") else ""))
    return found


def _state_space(own: list[Weight], found: Roles) -> None:
    for w in own:
        role = next((r for r in (IN, OUT) if w.called == r or w.called.startswith(f"{r}_")), w.called)
        found[w.name] = (STATE_SPACE, role)


def _attentions(weights: list[Weight], found: Roles) -> set[int]:
    """The attentions among the weights, and the widths that their queries take."""
    families = defaultdict(list)
    for w in weights:
        families[w.parent].append(w)
    widths = set()
    for parent, family in families.items():
        named = {w.name: role for w in family if (role := _of_attention(w))}
        has = {part for role in named.values() for part in role.split("+")}
        if not has >= {QUERY, KEY, VALUE} or _widens_and_narrows(family, named):
            continue
        part = CROSS if _is_cross(parent) else ATTENTION
        found |= {name: (part, role) for name, role in named.items()}
        core = [w for w in family if w.name in named]
        widths.add(next(w.n for w in core if QUERY in named[w.name]))
        output = _output(core, weights, found)
        if output is not None:
            found[output.name] = (part, OUTPUT)
    return widths


def _of_attention(w: Weight) -> str | None:
    if w.called == "in" and "att" not in w.parent.lower():
        return None
    return _CALLED.get(w.called) or _LOW_RANK.get(w.called) or _FUSED.get(w.called)


def _widens_and_narrows(family: list[Weight], named: dict[str, str]) -> bool:
    """Whether the value undoes what the key widens: a feed-forward whose weights are called so (RWKV)."""
    keys = [w for w in family if named.get(w.name) == KEY]
    values = [w for w in family if named.get(w.name) == VALUE]
    return any((k.n, k.m) == (v.m, v.n) and k.n != k.m for k in keys for v in values)


def _is_cross(parent: str) -> bool:
    return bool(re.search(r"cross|enc_?dec|encoder_att", parent.lower()))


def _output(core: list[Weight], weights: list[Weight], found: Roles) -> Weight | None:
    """The weight after an attention: by its name, else the first behind it, in the smallest module that has one."""
    scope, width = core[0].parent, next(w.n for w in core)
    behind = weights.index(core[-1])
    while True:
        free = [w for w in weights if w.name not in found and within(w.name, scope) and w.m == width]
        named = [w for w in free if w.called in _OUTPUTS and w.n <= sum(c.m for c in core)]
        if named:
            return named[0]
        if not scope:
            return next((w for w in free if weights.index(w) > behind and w.n == width), None)
        scope = scope.rpartition(".")[0]


def _feed_forwards(weights: list[Weight], widths: set[int], found: Roles) -> None:
    """Pairs of weights that widen and narrow again, the innermost modules first."""
    scopes = {scope for w in weights for scope in _above(w.name)}
    for scope in sorted(scopes, key=lambda s: (-s.count("."), s == "", s)):
        free = [w for w in weights if w.name not in found and within(w.name, scope)]
        down = _down(free, widths)
        if down is None:
            continue
        part = EXPERTS if "expert" in scope and "shared" not in scope else FEED_FORWARD
        ups = [w for w in free if w is not down and w.n == down.m and w.m in (down.n, 2 * down.n)]
        third = any(w.called == "w3" for w in ups)
        for w in ups:
            is_gate = "gate" in w.called or (third and w.called == "w1")
            found[w.name] = (part, GATE_UP if w.m == 2 * down.n else GATE if is_gate else UP)
        found[down.name] = (part, DOWN)


def _down(free: list[Weight], widths: set[int]) -> Weight | None:
    """The weight of a module that undoes what another one there widens."""

    def undoes(w: Weight) -> bool:
        return any(u is not w and u.n == w.m and u.m in (w.n, 2 * w.n) for u in free)

    candidates = [w for w in free if undoes(w)]
    if sure := [w for w in candidates if w.called in ("down", "w2", "wo")]:
        return sure[0]
    if widths and (narrow := [w for w in candidates if w.m in widths and w.n not in widths]):
        return narrow[0]
    return candidates[-1] if candidates else None


def within(name: str, scope: str) -> bool:
    return not scope or name.startswith(f"{scope}.")


def _above(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:i]) for i in range(len(parts), -1, -1)]
