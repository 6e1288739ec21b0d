"""The plug into Hugging Face PEFT: one type, one config, one model, one layer for every method."""
