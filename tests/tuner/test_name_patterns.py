"""Regular expressions of a file end soon, or are refused before they are tried."""

import time

import pytest

from corruptions import BROKEN, SLOW
from subspace_tuning import SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.patterns import Patterns

NAMES = [
    f"model.language_model.layers.{i}.{j}" for i in range(80) for j in ("self_attn.q_proj", "mlp.up_proj" + "a" * 40)
]
FIELDS = {
    "target_modules": lambda pattern: {"target_modules": pattern},
    "exclude_modules": lambda pattern: {"exclude_modules": pattern},
    "layers_pattern": lambda pattern: {"layers_pattern": pattern, "layers_to_transform": [0]},
    "rank_pattern": lambda pattern: {"rank_pattern": {pattern: 2}},
    "alpha_pattern": lambda pattern: {"alpha_pattern": {pattern: 2.0}},
    "method_pattern": lambda pattern: {"method_pattern": {pattern: "ssb"}},
    "modules_to_save": lambda pattern: {"modules_to_save": [pattern]},
}
PLAIN = [
    r".*\.layers\.(0|1|2|3|4|5|6|7|8|9|10|11|12|13|14|15)\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    r"^(?!.*vision).*\.layers\.\d+\.mlp\.(up|down|gate)_proj$",
    r"model\.layers\.(1[0-9]|2[0-3])\.(?:self_attn|mlp)\..*",
    r".*encoder.*query",
    "|".join(name.replace(".", r"\.") for name in NAMES),
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("pattern", SLOW)
def test_what_might_never_end_is_refused_at_once(field, pattern):
    config, start = SubspaceConfig(method="lora", **FIELDS[field](pattern)), time.monotonic()
    with pytest.raises(BadInput, match=f"{field} holds the regular expression .* in too many ways"):
        Patterns(config)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("pattern", [*BROKEN[:2], "a{99999999999}", "(" * 300])
def test_what_is_no_expression_is_told(field, pattern):
    with pytest.raises(BadInput, match=f"{field} holds .* no regular expression"):
        Patterns(SubspaceConfig(method="lora", **FIELDS[field](pattern)))


@pytest.mark.parametrize("pattern", PLAIN)
def test_what_people_write_passes(pattern):
    start = time.monotonic()
    Patterns(SubspaceConfig(method="lora", target_modules=pattern, rank_pattern={"q_proj": 2})).try_on(NAMES)
    assert time.monotonic() - start < 5


def test_many_names_are_tried_against_the_clock(monkeypatch):
    patterns = Patterns(SubspaceConfig(method="lora", target_modules=r".*q.*_.*x"))
    monkeypatch.setattr("subspace_tuning.tuner.patterns.SECONDS", 0.0)
    with pytest.raises(BadInput, match="take too long"):
        patterns.try_on(NAMES)
    with pytest.raises(BadInput, match="too long for patterns"):
        patterns.try_on(["a" * 1000])
