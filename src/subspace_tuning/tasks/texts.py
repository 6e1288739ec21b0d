"""Texts as a model takes them: token ids, no more of them than it has positions for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.files.table import Table
from subspace_tuning.weights.embedding import positions

USUAL_LENGTH = 128  # tokens of a text, or of a pair together
AS_TEXT = {"split_special_tokens": True}  # what looks like a special token, [SEP] or </s>, is read as any other word


def column_of(table: Table, column: str) -> Sequence[str]:
    """A column of texts. Raises BadInput where a value is something else."""
    values = table.column(column)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise BadInput(
                f"{table.place(row)}: column {column!r} holds {shown(value)}, expected a text; write it as one (in "
                "JSON in quotation marks, in parquet in a column of strings)"
            )
    return values


def max_length(asked: int | None, tokenizer: Any, texts: int = 1) -> int:
    """How many tokens a row of so many texts may have: what is asked for, else 128 or what the tokenizer allows.

    Raises BadInput where that leaves no room for a token of each text.
    """
    length = asked or min(USUAL_LENGTH, tokenizer.model_max_length)
    special = tokenizer.num_special_tokens_to_add(pair=texts == 2)
    if length < special + texts:
        raise BadInput(
            f"max_length: {length} leaves no room for a text: the tokenizer adds {special} tokens of its own; "
            f"expected {special + texts} or more"
        )
    return length


def tokens_of(texts: Sequence[tuple[str, ...]], tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """Token ids and masks of each row, pairs joined as the model was trained to see them."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    tokens = tokenizer(*columns, truncation=True, max_length=length, **AS_TEXT)
    names = list(tokens.keys())
    return [dict(zip(names, row, strict=True)) for row in zip(*(tokens[name] for name in names), strict=True)]


def check(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises BadInput where a row is longer than the model can read, or has a token without an embedding."""
    room = positions(model)
    longest = largest = 0
    for row in rows:
        longest, largest = max(longest, len(row["input_ids"])), max(largest, *row["input_ids"], 0)
    if room is not None and longest > room:
        raise BadInput(
            f"a row has {longest} tokens, more than the {room} positions of the model; set max_length: {room} or less"
        )
    size = model.get_input_embeddings().num_embeddings
    if largest >= size:
        raise BadInput(
            f"the tokenizer does not belong to the model: its token {tokenizer.convert_ids_to_tokens(largest)!r} has "
            f"the number {largest}, and the model has embeddings for {size}; give the model its own tokenizer"
        )


def pad(tokenizer: Any, usual: int | None) -> None:
    """Let a tokenizer without a padding token pad: with the model's, its end of text, or token 0 (it is masked)."""
    if tokenizer.pad_token is None and usual is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usual)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
