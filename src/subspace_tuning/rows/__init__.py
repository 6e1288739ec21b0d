"""Rows for language models: read from files or the hub, told apart by their columns, written as token ids."""

from subspace_tuning.rows.encode import Encoded, Encoding, Kind, encode
from subspace_tuning.rows.forms import Conversation, Plain, Row, row_of, rows_of
from subspace_tuning.rows.records import Records, read, sampled

__all__ = [
    "Conversation",
    "Encoded",
    "Encoding",
    "Kind",
    "Plain",
    "Records",
    "Row",
    "encode",
    "read",
    "row_of",
    "rows_of",
    "sampled",
]
