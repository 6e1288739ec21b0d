"""The registry's import lines: one method, one line."""

from subspace_tuning.methods.extend.flora import FLoRA
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.methods.extend.trilora import TriLoRA
from subspace_tuning.methods.reconstruct.bitfit import BitFit
from subspace_tuning.methods.reconstruct.fishmask import FishMask
from subspace_tuning.methods.reconstruct.ia3 import IA3, IA3Output
from subspace_tuning.methods.reconstruct.pafi import PaFi
from subspace_tuning.methods.reconstruct.sam_parser import SAMParser
from subspace_tuning.methods.reconstruct.ssb import SSB
from subspace_tuning.methods.reconstruct.ssl import SSL

__all__ = ["IA3", "SSB", "SSL", "BitFit", "FLoRA", "FishMask", "IA3Output", "LoRA", "PaFi", "SAMParser", "TriLoRA"]
