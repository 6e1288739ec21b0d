"""The registry's import lines: one method, one line."""

from subspace_tuning.methods.combine.dora import DoRA
from subspace_tuning.methods.combine.spectral import Spectral, SpectralRotation
from subspace_tuning.methods.combine.svdiff import SVDiff
from subspace_tuning.methods.extend.adalora import AdaLoRA
from subspace_tuning.methods.extend.flora import FLoRA
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.methods.extend.lora_dash import LoRADash
from subspace_tuning.methods.extend.lora_xs import LoRAXS
from subspace_tuning.methods.extend.pica import PiCa
from subspace_tuning.methods.extend.pissa import MiLoRA, PiSSA
from subspace_tuning.methods.extend.trilora import TriLoRA
from subspace_tuning.methods.reconstruct.bitfit import BitFit
from subspace_tuning.methods.reconstruct.diff_pruning import DiffPruning
from subspace_tuning.methods.reconstruct.fishmask import FishMask
from subspace_tuning.methods.reconstruct.ia3 import IA3, IA3Output
from subspace_tuning.methods.reconstruct.osf import OSF
from subspace_tuning.methods.reconstruct.pafi import PaFi
from subspace_tuning.methods.reconstruct.psoft import PSOFT
from subspace_tuning.methods.reconstruct.sam_parser import SAMParser
from subspace_tuning.methods.reconstruct.ssb import SSB
from subspace_tuning.methods.reconstruct.ssl import SSL
from subspace_tuning.methods.reconstruct.svfit import SVFit
from subspace_tuning.methods.reconstruct.svft import SVFT

__all__ = [
    "IA3",
    "OSF",
    "PSOFT",
    "SSB",
    "SSL",
    "SVFT",
    "AdaLoRA",
    "BitFit",
    "DiffPruning",
    "DoRA",
    "FLoRA",
    "FishMask",
    "IA3Output",
    "LoRA",
    "LoRADash",
    "LoRAXS",
    "MiLoRA",
    "PaFi",
    "PiCa",
    "PiSSA",
    "SAMParser",
    "SVDiff",
    "SVFit",
    "Spectral",
    "SpectralRotation",
    "TriLoRA",
]
