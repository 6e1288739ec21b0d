"""The registry's import lines: one method, one line."""

from subspace_tuning.methods.combine.dora import DoRA
from subspace_tuning.methods.combine.hira import HiRA
from subspace_tuning.methods.combine.liera import LieRA
from subspace_tuning.methods.combine.map import MAP
from subspace_tuning.methods.combine.speclora import SpecLoRA
from subspace_tuning.methods.combine.spectral import Spectral, SpectralRotation
from subspace_tuning.methods.combine.svdiff import SVDiff
from subspace_tuning.methods.extend.adalora import AdaLoRA
from subspace_tuning.methods.extend.c3a import C3A
from subspace_tuning.methods.extend.delora import DeLoRA
from subspace_tuning.methods.extend.flexlora import FlexLoRA
from subspace_tuning.methods.extend.flora import FLoRA
from subspace_tuning.methods.extend.fourierft import FourierFT
from subspace_tuning.methods.extend.gralora import GraLoRA
from subspace_tuning.methods.extend.houlsby import Houlsby
from subspace_tuning.methods.extend.kasa import KaSA
from subspace_tuning.methods.extend.loha import LoHa
from subspace_tuning.methods.extend.lokr import LoKr
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.methods.extend.lora_dash import LoRADash
from subspace_tuning.methods.extend.lora_xs import LoRAXS
from subspace_tuning.methods.extend.mam import MAM
from subspace_tuning.methods.extend.miss import MiSS
from subspace_tuning.methods.extend.moslora import MoSLoRA
from subspace_tuning.methods.extend.parallel import Parallel
from subspace_tuning.methods.extend.pfeiffer import Pfeiffer
from subspace_tuning.methods.extend.pica import PiCa
from subspace_tuning.methods.extend.pissa import MiLoRA, PiSSA
from subspace_tuning.methods.extend.randlora import RandLoRA
from subspace_tuning.methods.extend.stella import StelLA
from subspace_tuning.methods.extend.tied_lora import TiedLoRA
from subspace_tuning.methods.extend.tinylora import TinyLoRA
from subspace_tuning.methods.extend.trilora import TriLoRA
from subspace_tuning.methods.extend.unilora import UniLoRA
from subspace_tuning.methods.extend.vblora import VBLoRA
from subspace_tuning.methods.extend.vera import VeRA
from subspace_tuning.methods.extend.waveft import WaveFT
from subspace_tuning.methods.reconstruct.bitfit import BitFit
from subspace_tuning.methods.reconstruct.boft import BOFT
from subspace_tuning.methods.reconstruct.diff_pruning import DiffPruning
from subspace_tuning.methods.reconstruct.fishmask import FishMask
from subspace_tuning.methods.reconstruct.hra import HRA
from subspace_tuning.methods.reconstruct.ia3 import IA3, IA3Output
from subspace_tuning.methods.reconstruct.oft import OFT
from subspace_tuning.methods.reconstruct.osf import OSF
from subspace_tuning.methods.reconstruct.p_tuning import PTuning
from subspace_tuning.methods.reconstruct.pafi import PaFi
from subspace_tuning.methods.reconstruct.prefix import Prefix
from subspace_tuning.methods.reconstruct.prompt import Prompt
from subspace_tuning.methods.reconstruct.psoft import PSOFT
from subspace_tuning.methods.reconstruct.road import RoAd
from subspace_tuning.methods.reconstruct.sam_parser import SAMParser
from subspace_tuning.methods.reconstruct.shira import SHiRA
from subspace_tuning.methods.reconstruct.ssb import SSB
from subspace_tuning.methods.reconstruct.ssl import SSL
from subspace_tuning.methods.reconstruct.supertuning import SuperTuning
from subspace_tuning.methods.reconstruct.svfit import SVFit
from subspace_tuning.methods.reconstruct.svft import SVFT

__all__ = [
    "BOFT",
    "C3A",
    "HRA",
    "IA3",
    "MAM",
    "MAP",
    "OFT",
    "OSF",
    "PSOFT",
    "SSB",
    "SSL",
    "SVFT",
    "AdaLoRA",
    "BitFit",
    "DeLoRA",
    "DiffPruning",
    "DoRA",
    "FLoRA",
    "FishMask",
    "FlexLoRA",
    "FourierFT",
    "GraLoRA",
    "HiRA",
    "Houlsby",
    "IA3Output",
    "KaSA",
    "LieRA",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRADash",
    "LoRAXS",
    "MiLoRA",
    "MiSS",
    "MoSLoRA",
    "PTuning",
    "PaFi",
    "Parallel",
    "Pfeiffer",
    "PiCa",
    "PiSSA",
    "Prefix",
    "Prompt",
    "RandLoRA",
    "RoAd",
    "SAMParser",
    "SHiRA",
    "SVDiff",
    "SVFit",
    "SpecLoRA",
    "Spectral",
    "SpectralRotation",
    "StelLA",
    "SuperTuning",
    "TiedLoRA",
    "TinyLoRA",
    "TriLoRA",
    "UniLoRA",
    "VBLoRA",
    "VeRA",
    "WaveFT",
]
