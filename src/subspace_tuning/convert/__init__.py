"""Adapters from elsewhere as ours."""

from subspace_tuning.convert.from_peft import import_peft, read_peft

__all__ = ["import_peft", "read_peft"]
