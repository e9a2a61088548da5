"""The three shapes a training file may have, by their ids. (specs/guild.md 5.1)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from guild.errors import UnknownSchemaError

Kind = Literal["chat_sft", "completion"]
DEFAULT_SCHEMA = "chat_sft_v1"
JOB_KEYS = ("dataset_path", "base_model")
METADATA_KEYS = ("generator_id", "generator_version", "skill", "level")
"""What strict mode asks of every row, in its `metadata` or, as sparring rows have it, in the row itself. (5.5, 6.4)"""


@dataclass(frozen=True)
class DataSchema:
    """One shape of rows.

    column: the column that every row has, a list of messages for chat, a text for completion. optional: columns that a row may have;
    others are allowed too, and nothing reads them. job_keys: what a job that trains on such a file must say.
    """

    id: str
    kind: Kind
    column: Literal["messages", "text"]
    optional: tuple[str, ...] = ()
    job_keys: tuple[str, ...] = JOB_KEYS


SCHEMAS: dict[str, DataSchema] = {
    schema.id: schema
    for schema in (
        DataSchema(DEFAULT_SCHEMA, "chat_sft", "messages", ("system_prompt", "tags", "difficulty")),
        DataSchema("syllo_v1", "chat_sft", "messages", ("difficulty", "category", "variant")),
        DataSchema("completion_v1", "completion", "text"),
    )
}


def schema_of(name: str, *, where: str = "") -> DataSchema:
    """The schema of that id; `where` it was named, for the sentence. Raises UnknownSchemaError."""
    if name not in SCHEMAS:
        raise UnknownSchemaError(name, SCHEMAS, where=where)
    return SCHEMAS[name]
