"""Fine-tuning as algebra on a frozen weight: phi(W) = g(f(W))."""

from subspace_tuning import methods as _methods  # noqa: F401  registers every method
from subspace_tuning.method import Composition, Method
from subspace_tuning.method.registry import METHODS, build, register
from subspace_tuning.methods import IA3, SSB, SSL, BitFit, FLoRA, LoRA, SAMParser, TriLoRA
from subspace_tuning.tuner.bridge import connect
from subspace_tuning.tuner.calibrate import calibrate
from subspace_tuning.tuner.callback import StepCallback
from subspace_tuning.tuner.clock import set_total_steps
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.model import SubspaceModel
from subspace_tuning.tuner.near import start_near
from subspace_tuning.tuner.penalty import penalty
from subspace_tuning.tuner.steps import listen
from subspace_tuning.tuner.strength import set_strength
from subspace_tuning.tuner.taken import guarded
from subspace_tuning.version import VERSION

connect(SubspaceConfig, SubspaceModel, guarded)
listen()

__version__ = VERSION
__all__ = [
    "IA3",
    "METHODS",
    "SSB",
    "SSL",
    "BitFit",
    "Composition",
    "FLoRA",
    "LoRA",
    "Method",
    "SAMParser",
    "StepCallback",
    "SubspaceConfig",
    "SubspaceModel",
    "TriLoRA",
    "build",
    "calibrate",
    "penalty",
    "register",
    "set_strength",
    "set_total_steps",
    "start_near",
]
