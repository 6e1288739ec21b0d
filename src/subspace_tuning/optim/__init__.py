"""Optimisers that know the factors of an equation: which A and B are multiplied."""

from subspace_tuning.optim.lora_pro import LoRAPro
from subspace_tuning.optim.lora_rite import LoRARite
from subspace_tuning.optim.muon import Muon
from subspace_tuning.optim.pairs import Pair, pairs_of
from subspace_tuning.optim.rates import adamw, lora_plus
from subspace_tuning.optim.registry import ANYWHERE, IN_PIECES, OPTIMISERS, check, check_installed, create
from subspace_tuning.optim.riemannian import riemannian

__all__ = [
    "ANYWHERE",
    "IN_PIECES",
    "OPTIMISERS",
    "LoRAPro",
    "LoRARite",
    "Muon",
    "Pair",
    "adamw",
    "check",
    "check_installed",
    "create",
    "lora_plus",
    "pairs_of",
    "riemannian",
]
