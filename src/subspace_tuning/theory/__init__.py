"""The theory as a tool: how near can a family come to a fully fine-tuned weight W*?"""

from subspace_tuning.theory.project import Projection, captured_energy, optimal_scale, project
from subspace_tuning.theory.search import PATIENT, Search

__all__ = ["PATIENT", "Projection", "Search", "captured_energy", "optimal_scale", "project"]
