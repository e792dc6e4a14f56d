"""Fields that several of the API's answers have: their types, and what they mean."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field


def _writable(value: object) -> object:
    # What a language model wrote may hold lone surrogates, which UTF-8 has no form for.
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_writable)]
"""Text of a log, or about it."""

Why = Annotated[
    Text | None,
    Field(
        description="Why the field of this name, without `_error`, is null; null when that field is given."
    ),
]
TaskId = Annotated[Text, Field(description="The run's id, also where `latest` was asked for.")]
Updated = Annotated[Text, Field(description="When its newest snapshot was written, in ISO 8601 with offset.")]
HistLen = Annotated[int, Field(ge=0, description="Length of the history: loops that were judged.")]
HasSota = Annotated[bool, Field(description="Whether it accepted a factor experiment of its own.")]
LoopClass = Annotated[Text, Field(description="Of RD-Agent's loop, such as `FactorRDLoop`.")]
SessionFile = Annotated[Text, Field(description="The snapshot that was read, relative to the log folder.")]
Signed = Annotated[
    Text,
    Field(
        description="What is known about who wrote the snapshot: `verified`, `signed, key not here` or `unsigned`."
    ),
]
Formula = Annotated[Text, Field(description="LaTeX, as the language model wrote it.")]
Hypothesis = Annotated[Text, Field(description="What the experiment set out to show.")]
Metrics = Annotated[
    dict[Text, float | None],
    Field(description="Qlib's, by their names in `qlib_res.csv`; null for NaN. Empty without a result."),
]
