"""The theory as a tool: how near can a family come to a fully fine-tuned weight W*?"""

from subspace_tuning.theory.project import Projection, captured_energy, optimal_scale, project

__all__ = ["Projection", "captured_energy", "optimal_scale", "project"]
