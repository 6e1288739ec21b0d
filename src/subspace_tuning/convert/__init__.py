"""Adapters from elsewhere as ours."""

from subspace_tuning.convert.from_peft import config_from_peft, import_peft, read_peft

__all__ = ["config_from_peft", "import_peft", "read_peft"]
