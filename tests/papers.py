"""The configs of the models that the paper trains."""

import json
from pathlib import Path

from transformers import AutoConfig

FIXTURES = Path(__file__).parent / "fixtures"


def config_of(name):
    data = json.loads((FIXTURES / name / "config.json").read_text(encoding="utf-8"))
    return AutoConfig.for_model(data.pop("model_type"), **data)
