"""What PEFT calls our parameters, method by method: the one table behind the parity tests."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import peft
import torch
from peft import KasaConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from subspace_tuning import IA3, SSL, LoRA, SubspaceConfig, build
from subspace_tuning.method import Method
from subspace_tuning.methods import IA3Output
from subspace_tuning.testing.cases import Net
from subspace_tuning.testing.kinds import KINDS, Kind

Layout = Callable[[Tensor], Tensor]  # a rearrangement of entries, so that gradients are rearranged alike

BY_NAME = {kind.name: kind for kind in KINDS}
LINEAR = ("linear", "linear_wide", "linear_no_bias")
DENSE = (*LINEAR, "conv1d")
CONV = ("conv2d", "conv2d_moved", "conv2d_no_bias")
UNDILATED = ("conv2d", "conv2d_no_bias")  # PEFT's LoRA forgets the dilation of a convolution
ALL = (*DENSE, *UNDILATED, "embedding")


def transposed(t: Tensor) -> Tensor:
    """(out, in...) as torch holds it -> (in, out) as the equations write it."""
    return t.flatten(1).T


def flat(t: Tensor) -> Tensor:
    return t.flatten()


def same(t: Tensor) -> Tensor:
    return t


def square(t: Tensor) -> Tensor:
    """The r^2 numbers of a core, row by row and (out, in)."""
    r = round(t.numel() ** 0.5)
    return t.view(r, r).T


def below_the_diagonal(t: Tensor) -> Tensor:
    """Entries above the diagonal of each block, row by row -> those below, row by row."""
    b = round((2 * t.shape[1]) ** 0.5 + 0.5)
    Q = t.new_zeros(len(t), b, b)
    rows, cols = torch.triu_indices(b, b, 1)
    Q[:, rows, cols] = t
    rows, cols = torch.tril_indices(b, b, -1)
    return Q.mT[:, rows, cols].flatten()


def negated(t: Tensor) -> Tensor:
    """Of the rotation, where PEFT does not take the inverse one."""
    return -below_the_diagonal(t)


def cosines_first(t: Tensor) -> Tensor:
    """Those of cosines and of sines in turn, pair by pair -> one after the other."""
    return t.view(-1, 2, 2).transpose(0, 1).flatten()


def apart_of_the_transposed(t: Tensor) -> Tensor:
    """Blocks (..., b, b) -> what they differ from their transposed by, below the diagonal, row by row, over sqrt(2)."""
    rows, cols = torch.tril_indices(t.shape[-1], t.shape[-1], -1)
    return ((t.mT - t) / 2**0.5)[..., rows, cols].flatten()


class Origin(NamedTuple):
    """Theirs is start + unit * ours: we train how far a number is from where it starts."""

    start: Tensor | float = 0.0
    unit: Tensor | float = 1.0

    def ours(self, theirs: Tensor) -> Tensor:
        return (theirs - self.start) / self.unit


Origins = Callable[[Any], dict[str, Origin]]  # our layer -> of its parameters, those that do not start at zero


def no_origins(ours: Any) -> dict[str, Origin]:
    return {}


class Pair(NamedTuple):
    """A method here and the config of the same in PEFT."""

    title: str
    ours: Method
    theirs: Callable[..., PeftConfig]
    names: dict[str, tuple[str, Layout]]  # our parameter -> PEFT's attribute of the layer, and how its entries lie
    kinds: tuple[str, ...] = DENSE
    share: Callable[[Any, Any], None] = lambda theirs, ours: None  # hand PEFT's random projections to our layer
    origins: Origins = no_origins

    def __str__(self) -> str:
        return self.title


LORA = {"A": ("lora_A", transposed), "B": ("lora_B", transposed)}
DORA = {**LORA, "delta": ("lora_magnitude_vector", flat)}
ADALORA = {**LORA, "d": ("lora_E", flat)}
IA3_D = {"delta": ("ia3_l", flat)}
VERA = {"delta": ("vera_lambda_d", flat), "b": ("vera_lambda_b", flat)}
RANDLORA = {"l": ("randlora_lambda", transposed), "g": ("randlora_gamma", same)}
HIRA = {"A": ("hira_A", transposed), "B": ("hira_B", transposed)}
LOHA = {
    **{"A1": ("hada_w1_b", transposed), "B1": ("hada_w1_a", transposed)},
    **{"A2": ("hada_w2_b", transposed), "B2": ("hada_w2_a", transposed)},
}
LOKR = {"C": ("lokr_w1", transposed), "D1": ("lokr_w2_b", transposed), "D2": ("lokr_w2_a", transposed)}
LOKR_WHOLE = {"C": ("lokr_w1", transposed), "D": ("lokr_w2", transposed)}
OFT = {"q": ("oft_R", below_the_diagonal)}
OFT_SUM = {"q": ("oft_R", negated)}
BOFT = {"q": ("boft_R", apart_of_the_transposed), "delta": ("boft_s", flat)}
HRA = {"u": ("hra_u", same)}
ROAD = {"theta": ("road_theta", same), "delta": ("road_alpha", same)}
ROAD_FOUR = {"theta": ("road_theta", cosines_first), "delta": ("road_alpha", cosines_first)}
DELORA = {"A": ("delora_A", transposed), "B": ("delora_B", transposed), "delta": ("delora_lambda", same)}
PSOFT = {"q": ("psoft_R", same), "a": ("psoft_R.vector_a", same), "b": ("psoft_R.vector_b", same)}
LORA_XS = {"M": ("tinylora_v", square)}
GRALORA = {"A": ("gralora_A", same), "B": ("gralora_B", same)}


def outer_swapped(t: Tensor) -> Tensor:
    """Blocks (out, in, ...) -> (in, out, ...)."""
    return t.transpose(0, 1)


def lora(**values: Any) -> Callable[..., PeftConfig]:
    return partial(peft.LoraConfig, **{"r": 3, "lora_alpha": 5, **values})


def ia3(feedforward: bool) -> Callable[..., PeftConfig]:
    return partial(peft.IA3Config, feedforward_modules=["layer"] if feedforward else [])


def oft(**values: Any) -> Callable[..., PeftConfig]:
    return partial(peft.OFTConfig, r=0, oft_block_size=7, **values)


def from_one(*names: str) -> Origins:
    return lambda ours: {name: Origin(1.0) for name in names}


def from_factors(ours: Any) -> dict[str, Origin]:
    constants = ours.constants("default")
    return {"A": Origin(constants["A0"]), "B": Origin(constants["B0"])}


def from_norms(ours: Any) -> dict[str, Origin]:
    norms = ours.constants("default")["norms"]
    return {"delta": Origin(norms, norms)}


def from_redundant(ours: Any) -> dict[str, Origin]:
    """PEFT has two numbers for each of ours, which move half as far."""
    return {"q": Origin(unit=torch.tensor(2**0.5)), "delta": Origin(1.0)}


def from_pairs(ours: Any) -> dict[str, Origin]:
    return {"u": Origin(ours.constants("default")["u0"])}


def from_bound(ours: Any) -> dict[str, Origin]:
    return {"delta": Origin(ours.methods["default"].bound)}


def from_d_initial(ours: Any) -> dict[str, Origin]:
    return {"delta": Origin(ours.methods["default"].d_initial)}


def hand_over(ours: Any, **constants: Tensor) -> None:
    """Let our layer compute with these constants."""
    for name, value in constants.items():
        assert value.shape == ours.subspace_constants["default"][name].shape, name
        ours.subspace_constants["default"][name] = value.detach().clone()


def share_vera(theirs: Any, ours: Any) -> None:
    """PEFT cuts the projections of a layer out of one pair for all layers."""
    n, m = ours.frozen.shape
    hand_over(ours, A=theirs.vera_A["default"][:, :n].T, B=theirs.vera_B["default"][:m].T)


def share_randlora(theirs: Any, ours: Any) -> None:
    """PEFT lines up the terms of one side rank by rank, those of the other term by term."""
    P, Q = theirs.randlora_B["default"], theirs.randlora_A["default"]
    r, N = Q.shape[0], P.shape[1]
    hand_over(ours, P=P.flatten(1).unflatten(1, (r, N)).transpose(1, 2).flatten(1), Q=Q[:, 0])


def share_psoft(theirs: Any, ours: Any) -> None:
    """Singular vectors are the same up to their signs."""
    A, B = theirs._psoft_A_cache["default"], theirs._psoft_B_cache["default"]
    S = B.norm(dim=0)
    hand_over(ours, U=A.T, S=S, Vt=(B / S).T)


def share_lora_xs(theirs: Any, ours: Any) -> None:
    """TinyLoRA with every entry of the core as a projection of its own is LoRA-XS; PEFT shares S evenly."""
    r = theirs.r["default"]
    theirs.tinylora_P["default"] = torch.eye(r * r).view(r * r, r, r)
    hand_over(ours, A=theirs.tinylora_A["default"].T, B=theirs.tinylora_B["default"].T)


def share_order(theirs: Any, ours: Any) -> None:
    """The same places, by rows of W here and of its transpose there."""
    (n, m), held = ours.frozen.shape, ours.values("default")
    rows, cols = held["places"] // m, held["places"] % m
    if hasattr(theirs, "shira_indices"):
        assert {*zip(*theirs.shira_indices["default"].tolist(), strict=True)} == {
            *zip(cols.tolist(), rows.tolist(), strict=True)
        }
        theirs.shira_indices["default"] = torch.stack([cols, rows])
        return
    assert {*theirs.supertuning_indices["default"].tolist()} == {*(cols * n + rows).tolist()}
    theirs.supertuning_indices["default"] = cols * n + rows


def share_tinylora(theirs: Any, ours: Any) -> None:
    """PEFT draws projections by the number of a layer, and shares S evenly between A and B."""
    P = theirs.tinylora_P["default"].mT.flatten(1)  # (out, in) there
    hand_over(ours, A=theirs.tinylora_A["default"].T, B=theirs.tinylora_B["default"].T, P=P)


def share_unilora(theirs: Any, ours: Any) -> None:
    """PEFT deals places to all layers at once, and its start moves W."""
    places = theirs.unilora_indices_A["default"].T, theirs.unilora_indices_B["default"].T
    hand_over(ours, I=places[0], J=places[1], theta0=torch.zeros_like(ours.constants("default")["theta0"]))


def share_vblora(theirs: Any, ours: Any) -> None:
    """PEFT's start moves W."""
    hand_over(ours, **{name: torch.zeros_like(value) for name, value in ours.constants("default").items()})


def pieces(t: Tensor) -> Tensor:
    """(r, pieces, h) -> (r pieces, h)."""
    return t.flatten(0, 1)


def pieces_first(t: Tensor) -> Tensor:
    """(pieces, r, h) -> (r pieces, h)."""
    return t.transpose(0, 1).flatten(0, 1)


PAIRS = [
    Pair("lora", LoRA(r=3, alpha=5), lora(), LORA, ALL),
    Pair("rslora", LoRA(r=3, alpha=5, rank_stabilized=True), lora(use_rslora=True), LORA, ALL),
    Pair(
        "olora",
        LoRA(r=3, alpha=5, init="orthogonal"),
        lora(init_lora_weights="olora"),
        LORA,
        LINEAR,
        origins=from_factors,
    ),
    Pair("lora_pissa", LoRA(r=3, alpha=5, init="pissa"), lora(init_lora_weights="pissa"), LORA, origins=from_factors),
    Pair(
        "pissa",
        build("pissa", {"r": 3}),
        lora(init_lora_weights="pissa", lora_alpha=3),
        LORA,
        origins=from_factors,
    ),
    Pair("dora", build("dora", {"r": 3, "alpha": 5}), lora(use_dora=True), DORA, ALL, origins=from_norms),
    Pair(
        "adalora",
        build(
            "adalora", {"init_r": 3, "r": 2, "alpha": 5, "orthogonality": 0.0}
        ),  # PEFT's is in a loss that the model gives
        partial(peft.AdaLoraConfig, init_r=3, target_r=2, lora_alpha=5, total_step=10),
        ADALORA,
        (*LINEAR, *UNDILATED),
    ),
    Pair(
        "kasa",
        build("kasa", {"r": 3, "alpha": 5, "beta": 0.0, "gamma": 0.0}),  # PEFT's are for the caller to add
        lora(kasa_config=KasaConfig()),
        {**LORA, "d": ("lora_diag", flat)},
        LINEAR,
    ),
    Pair(
        "vera", build("vera", {"r": 5}), partial(peft.VeraConfig, r=5), VERA, share=share_vera, origins=from_d_initial
    ),
    Pair(
        "randlora",
        build("randlora", {"r": 3, "alpha": 5}),
        partial(peft.RandLoraConfig, r=3, randlora_alpha=5),
        RANDLORA,
        share=share_randlora,
    ),
    Pair("hira", build("hira", {"r": 3}), partial(peft.HiraConfig, r=3), HIRA, ALL),
    Pair("loha", build("loha", {"r": 3, "alpha": 5}), partial(peft.LoHaConfig, r=3, alpha=5), LOHA, (*LINEAR, *CONV)),
    Pair("lokr", build("lokr", {"r": 2, "alpha": 5}), partial(peft.LoKrConfig, r=2, alpha=5), LOKR, LINEAR),
    Pair("lokr_whole", build("lokr", {"r": 9, "alpha": 5}), partial(peft.LoKrConfig, r=9, alpha=5), LOKR_WHOLE, LINEAR),
    Pair("oft", build("oft", {"b": 7}), oft(use_cayley_neumann=False), OFT, LINEAR),
    Pair("oft_sum", build("oft", {"b": 7, "terms": 5}), oft(), OFT_SUM, LINEAR),
    Pair(
        "boft",
        build("boft", {"b": 7, "factors": 1}),
        partial(peft.BOFTConfig, boft_block_size=7),
        BOFT,
        LINEAR,
        origins=from_redundant,
    ),
    Pair("hra", build("hra", {"r": 4}), partial(peft.HRAConfig, r=4), HRA, LINEAR, origins=from_pairs),
    Pair(
        "delora",
        build("delora", {"r": 3, "bound": 4.0}),
        partial(peft.DeloraConfig, r=3, delora_lambda=4),
        DELORA,
        LINEAR,
        origins=from_bound,
    ),
    *(
        Pair(
            f"road_{variant}",
            build("road", {"variant": variant, "group": group}),
            partial(peft.RoadConfig, variant=f"road_{variant}", group_size=group),
            names,
            ("linear", "linear_no_bias"),
            origins=from_one("delta"),
        )
        for variant, group, names in ((1, 10, ROAD), (2, 10, ROAD), (4, 2, ROAD_FOUR))
    ),
    Pair(
        "psoft",
        build("psoft", {"r": 3}),
        partial(peft.PsoftConfig, r=3, psoft_alpha=3),
        PSOFT,
        LINEAR,
        share_psoft,
        from_one("a", "b"),
    ),
    Pair(
        "lora_xs",
        build("lora_xs", {"r": 3, "alpha": 3}),
        partial(peft.TinyLoraConfig, r=3, u=9),
        LORA_XS,
        share=share_lora_xs,
    ),
    Pair(
        "c3a",
        build("c3a", {"b": 2}),
        partial(peft.C3AConfig, block_size=2),
        {"w": ("c3a_kernel", outer_swapped)},
        ("linear",),
    ),
    Pair("miss", build("miss", {"r": 4}), partial(peft.MissConfig, r=4), {"D": ("miss_block", same)}, LINEAR),
    Pair(
        "gralora",
        build("gralora", {"r": 4, "alpha": 5}),
        partial(peft.GraloraConfig, r=4, alpha=5, gralora_k=2),
        GRALORA,
        ("linear", "linear_no_bias", "conv1d"),
    ),
    Pair(
        "fourierft",
        build("fourierft", {"frequencies": 30, "seed": 3}),
        partial(peft.FourierFTConfig, n_frequency=30, scaling=300.0, random_loc_seed=3),
        {"c": ("fourierft_spectrum", same)},
    ),
    Pair(
        "waveft",
        build("waveft", {"frequencies": 60, "seed": 3}),
        partial(peft.WaveFTConfig, n_frequency=60, random_loc_seed=3),
        {"c": ("waveft_spectrum", same)},
    ),
    Pair(
        "shira",
        build("shira", {"r": 2, "seed": 3}),
        partial(peft.ShiraConfig, r=2, random_seed=3),
        {"v": ("shira_weight", same)},
        LINEAR,
        share_order,
    ),
    Pair(
        "supertuning",
        build("supertuning", {"share": 0.5}),
        partial(peft.SupertuningConfig, sparsity=0.5),
        {"v": ("supertuning_values", same)},
        LINEAR,
        share_order,
    ),
    Pair(
        "tinylora",
        build("tinylora", {"r": 3, "u": 5}),
        partial(peft.TinyLoraConfig, r=3, u=5, weight_tying=1.0),
        {"v": ("tinylora_v", same)},
        share=share_tinylora,
    ),
    Pair(
        "unilora",
        build("unilora", {"r": 2, "d": 48}),  # as many as entries, where PEFT divides them by 1
        partial(peft.UniLoraConfig, r=2, theta_d_length=48),
        {"theta": ("unilora_theta_d", same)},
        ("linear", "linear_no_bias"),
        share=share_unilora,
    ),
    Pair(
        "vblora",
        build("vblora", {"r": 3, "h": 6, "b": 2}),
        partial(peft.VBLoRAConfig, r=3, num_vectors=6, vector_length=2),
        {
            "bank": ("vblora_vector_bank", same),
            "logits_A": ("vblora_logits_A", pieces),
            "logits_B": ("vblora_logits_B", pieces_first),
        },
        ("linear", "linear_no_bias", "conv1d"),
        share=share_vblora,
    ),
    Pair("ia3_output", IA3Output(), ia3(False), IA3_D, (*DENSE, *CONV), origins=from_one("delta")),
    Pair("ia3", IA3(), ia3(False), IA3_D, ("linear_no_bias", "conv2d_no_bias"), origins=from_one("delta")),
    Pair("ia3_feedforward", SSL(), ia3(True), IA3_D, origins=from_one("delta")),
]


class Difference(NamedTuple):
    """Where an equation and PEFT's differ: the reason, and a pair and kind of weight on which it shows."""

    reason: str
    pair: Pair
    kind: str = "linear"


def _without_sharing(title: str, **values: Any) -> Pair:
    pair = next(pair for pair in PAIRS if pair.title == title)
    return pair._replace(**{"share": lambda theirs, ours: None, **values})


def _share_in_order(theirs: Any, ours: Any) -> None:
    hand_over(ours, P=theirs.randlora_B["default"].flatten(1), Q=theirs.randlora_A["default"][:, 0])


def _share_core(theirs: Any, ours: Any) -> None:
    r = theirs.r["default"]
    theirs.tinylora_P["default"] = torch.eye(r * r).view(r * r, r, r)


DIFFERENCES = {
    "ia3": Difference(
        "the equation scales W and leaves the bias alone; PEFT scales the module's output, bias included, which is "
        "ia3_output",
        Pair("ia3", IA3(), ia3(False), IA3_D, origins=from_one("delta")),
    ),
    "dora": Difference(
        "equation (5) differentiated through the norms; PEFT takes them for constants, as section 4.3 proposes and as "
        "dora does unless told detach=False",
        Pair(
            "dora",
            build("dora", {"r": 3, "alpha": 5, "detach": False}),
            lora(use_dora=True),
            DORA,
            origins=from_norms,
        ),
    ),
    "vera": Difference(
        "projections follow from the seed and the shape of a layer; PEFT cuts them out of one pair for all layers",
        _without_sharing("vera"),
    ),
    "randlora": Difference(
        "PEFT pairs rank i of term j with another column of the random P than its equation does: the same up to how "
        "random columns are numbered",
        _without_sharing("randlora", share=_share_in_order),
    ),
    "oft": Difference(
        "R is the Cayley form; PEFT takes five terms of its series unless told use_cayley_neumann=False",
        Pair("oft", build("oft", {"b": 7}), oft(), OFT),
    ),
    "lora_xs": Difference(
        "A holds the singular values, as in the paper; PEFT's TinyLoRA shares them evenly between A and B",
        _without_sharing("lora_xs", share=_share_core),
    ),
}


class Both(NamedTuple):
    """The same layer with PEFT's adapter and with ours."""

    pair: Pair
    theirs: nn.Module
    ours: nn.Module

    @classmethod
    def of(cls, pair: Pair, kind: Kind) -> "Both":
        net = Net(kind.layer())
        theirs = get_peft_model(copy.deepcopy(net), pair.theirs(target_modules=["layer"]))
        ours = get_peft_model(net, SubspaceConfig(method=pair.ours, target_modules=["layer"]))
        both = cls(pair, theirs, ours)
        pair.share(*both.layers())
        with torch.no_grad():
            for name, (their, our, layout) in both.parameters().items():
                their.add_(torch.randn_like(their), alpha=0.2)
                assert our.shape == layout(their).shape, name
                our.copy_(both.origin(name).ours(layout(their)))
        return both

    def layers(self) -> tuple[Any, Any]:
        return self.theirs.base_model.model.layer, self.ours.base_model.model.layer

    def origin(self, name: str) -> Origin:
        """Of one of our parameters."""
        return self.pair.origins(self.layers()[1]).get(name, Origin())

    def parameters(self) -> dict[str, tuple[Tensor, Tensor, Layout]]:
        """Our name -> PEFT's tensor, ours, and the layout that leads from one to the other."""
        theirs, ours = self.layers()
        mine = ours.trained("default")
        assert set(mine) == set(self.pair.names), "the table names every parameter of the method"
        found = {k: (_held(theirs, name), mine[k], layout) for k, (name, layout) in self.pair.names.items()}
        trained = sum(p.requires_grad for p in self.theirs.parameters())
        assert trained == len(found), "the table names every parameter of PEFT's layer"
        return found


def _held(layer: Any, name: str) -> Tensor:
    """PEFT's tensor by the attribute that holds it, and a name within that where it is not ``weight``."""
    attribute, _, within = name.partition(".")
    groups = [getattr(layer, attribute), getattr(layer, attribute.replace("ra_", "ra_embedding_"), {})]
    value = next(group["default"] for group in groups if "default" in group)
    if isinstance(value, nn.ParameterDict):  # TinyLoRA's groups of layers
        (value,) = value.values()
    return value if isinstance(value, Tensor) else getattr(value, within or "weight")
