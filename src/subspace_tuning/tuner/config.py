"""The one config: a method, where it sits, and what PEFT wants to know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils.other import get_pattern_key

from subspace_tuning.errors import as_bad_input
from subspace_tuning.method import Method, registry
from subspace_tuning.method.mpc import WEIGHT, constrain
from subspace_tuning.peft_types.read import from_config, from_folder, keywords
from subspace_tuning.peft_types.words import ours, with_parameters
from subspace_tuning.tuner.bridge import SUBSPACE

CARD = """
## Loading this adapter

It was made by [subspace-tuning](https://pypi.org/project/subspace-tuning/). PEFT does not know its type until the
package has been imported (without it, PEFT stops with `KeyError: 'SUBSPACE'`):

```bash
pip install subspace-tuning
```

```python
import subspace_tuning  # before PEFT opens the adapter
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```
"""


@dataclass(init=False)
class SubspaceConfig(PeftConfig):
    """Which method, on which modules.

    method: a method, a registered name, ``a|b`` or a list of these (a composition). With a name, the method's fields
        are taken as further keywords: ``SubspaceConfig(method="lora", r=8)``. ``package.module:Class`` names a class
        whose module has been imported; ``build("package.module:Class")`` imports it.
    mpc, mpc_weight: hold the factors A and B to a pattern (o, d or n); see ``mpc.py``.
    target_modules: names, a regular expression or ``"all-linear"``; None takes the paper's modules.
        Fused weights of experts go by the parameter's name: ``["experts.gate_up_proj"]``; PEFT's ``target_parameters``
        names them too.
    exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as in PEFT.
    rank_pattern, alpha_pattern: module name or regular expression -> another rank r or scale alpha.
    method_pattern: module name or regular expression -> another method.
    total_steps: how many steps training takes, for methods whose schedule goes by it, where no transformers' Trainer
        says so; see also ``set_total_steps``.
    ensure_weight_tying: modules that share a weight with a tuned one go by the same phi(W): an embedding and the head
        that is tied to it. Without it a method changes the module that it is on, and merging unties that.
    Keywords of PEFT's LoraConfig (lora_alpha, lora_dropout, use_rslora, use_dora, init_lora_weights) are understood.
    packed: set on saving, where a method stores its parameters in another form than it trains them.
    sketch: set on saving, a few numbers that tell whether another base model is the same; see ``origin.py``.
    init_weights: False starts from random parameters instead of phi(W) = W (for tests).
    """

    method: Any = "ssb"
    mpc: str | None = None
    mpc_weight: float = WEIGHT
    target_modules: set[str] | str | None = None
    exclude_modules: set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    method_pattern: dict[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    ensure_weight_tying: bool = False
    packed: bool = False
    sketch: list[float] | None = None
    init_weights: bool = True

    def __init__(self, method: Any = "ssb", **values: Any):
        known = {f.name: f for f in dataclasses.fields(self)}
        if parameters := values.pop("target_parameters", None):
            values["target_modules"] = with_parameters(values.get("target_modules"), parameters)
        of_method = {k: values.pop(k) for k in list(values) if k not in known and k != "requires"}
        if of_method.get("init_lora_weights") is False:
            values.setdefault("init_weights", False)
        for name, f in known.items():
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            setattr(self, name, values.get(name, default))
        self.method = self._method(method, of_method)
        self.method_pattern = {key: registry.from_data(other) for key, other in self.method_pattern.items()}
        self.__post_init__()

    @staticmethod
    def _method(method: Any, values: dict[str, Any]) -> Method:
        """Nothing is imported, whoever made the config: what a file says cannot be told from what a person typed."""
        if values and not isinstance(method, str):
            ours("", values)  # says so where a keyword is one of PEFT's
            raise ValueError(
                f"the keywords {', '.join(sorted(values))} are unknown to SubspaceConfig; fields of a method are taken "
                "only along with its name, as in SubspaceConfig(method='lora', r=8)"
            )
        if isinstance(method, str):
            method, values = ours(method, values)
            return registry.from_data({"name": method, **values})
        return registry.from_data(method)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = SUBSPACE
        if isinstance(self.target_modules, list | tuple):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list | tuple):
            self.exclude_modules = set(self.exclude_modules)
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says how layers are named; say which ones with layers_to_transform")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform goes with a list of target_modules, not with a regular expression")
        if self.total_steps is not None and (type(self.total_steps) is not int or self.total_steps < 1):
            raise ValueError(f"total_steps is a whole number above 0 or None, got {self.total_steps!r}")
        for method in (self.method, *self.method_pattern.values()):
            constrain(method, self.mpc, self.mpc_weight)

    def resolved(self, module: str = "") -> Method:
        """The method with its MPC; for a module, the one that it goes by."""
        method = self.method_pattern.get(get_pattern_key(list(self.method_pattern), module), self.method)
        changes = {
            field: pattern[found]
            for field, pattern in (("r", self.rank_pattern), ("alpha", self.alpha_pattern))
            if (found := get_pattern_key(list(pattern), module)) in pattern
        }
        method = constrain(method, self.mpc, self.mpc_weight)
        return method.with_fields(**changes) if changes else method

    @classmethod
    def from_peft(cls, adapter: str | Path | PeftConfig) -> SubspaceConfig:
        """Our config for an adapter of PEFT's own (LoRA, (IA)3, AdaLoRA, VeRA): its folder, or its config."""
        kind, source = from_config(adapter) if isinstance(adapter, PeftConfig) else from_folder(adapter)
        with as_bad_input((ValueError, TypeError, KeyError)):
            return cls(**keywords(kind, source))

    def handed_over(self) -> PeftConfig:
        """This config; for a method that PEFT has already (soft prompts), PEFT's own in its place."""
        if self.method.sits_on != "tokens":
            return self
        said = {"target_modules": self.target_modules, "exclude_modules": self.exclude_modules, "mpc": self.mpc}
        for name, value in said.items():
            if value is not None:
                raise ValueError(f"{self.method.name} sits on tokens, not on modules: leave out {name}={value!r}")
        config: PeftConfig = self.method.peft_config(self.task_type or "FEATURE_EXTRACTION")
        return config

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["method"] = registry.to_data(self.method)
        plain["method_pattern"] = {key: registry.to_data(other) for key, other in self.method_pattern.items()}
        plain["requires"] = "pip install subspace-tuning; import subspace_tuning before PEFT opens this adapter"
        return {k: sorted(v) if isinstance(v, set) else v for k, v in plain.items()}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, **kwargs)
        card = Path(save_directory, "README.md")
        if card.exists() and CARD.strip() not in (text := card.read_text(encoding="utf-8")):
            card.write_text(text.rstrip() + "\n" + CARD, encoding="utf-8")
