"""Adapters from elsewhere as ours, and what merging ours would keep."""

from subspace_tuning.convert.from_peft import import_peft, read_peft
from subspace_tuning.convert.merge import merge_certificate

__all__ = ["import_peft", "merge_certificate", "read_peft"]
