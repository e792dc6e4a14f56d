"""The JSON documents of a bundle, as frozen objects: the format that ``docs/bundles.md`` describes.

Everything here is plain data. A reader needs neither Qlib nor torch nor a pickle to know what a bundle holds.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rdagent_sota_patch.lookahead.verdicts import Audit, Sha256

SCHEMA_VERSION = 1
"""Of every document; a bundle of another one is refused."""

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.hmac"
COMPANION_NAME = "aistock_manifest.json"
"""What ``rdagent-sota sync`` writes beside a bundle's files (``sync/companion.py``); no manifest lists it."""
SERVED_FOLDER = "served"
"""In a sync's folder in the notes' layout: the documents that this layout changes, as the server sent them."""
ORDER_NAME = "factor_order.json"
FACTORS_NAME = "sota_factors.json"
META_NAME = "model_meta.json"
CONFIG_NAME = "config.json"
REPORT_NAME = "extract_report.json"
EVIDENCE_NAME = "evidence.json"
"""What is left of the shipped experiment after counting its run's trials; docs/evidence.md has its fields."""
WEIGHTS_NAME = "model.pkl"
BOOSTER_NAME = "model.txt"
TENSORS_NAME = "model.safetensors"
CODE_NAME = "model.py"
FACTOR_FOLDER = "factors"
REPLAY_FOLDER = "replay"
PREDICTIONS_NAME = "replay/predictions.parquet"
SLICE_NAME = "replay/input.parquet"
REPLAY_NAME = "replay/replay.json"

NOTES_META_FIELDS = ("dataset_conf", "feature_schema")
"""Of ``model_meta.json``, in the notes' layout alone."""

NOT_AUDITED: Literal["not audited"] = "not audited"

Join = Literal["left", "outer", "inner", "right"]
"""Whose rows a model's input has: the Alpha features' (left), the factor table's (right), both's or either's."""


class Document(BaseModel):
    """Base of all documents: frozen, and refusing what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ShippedFile(Document):
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class PrimaryAssets(Document):
    """Where the main things are, relative to the bundle; the names are those of the user's sync manifest.

    ``combined_factors_relpath`` is always null: back-test data is not shipped.
    """

    factor_entry_relpath: str | None
    model_weight_relpath: str | None
    config_relpath: str | None
    combined_factors_relpath: None = None
    model_meta_relpath: str | None
    factor_order_relpath: str | None


class Manifest(Document):
    """``manifest.json``.

    Attributes:
        stage: ``factor``: the model trained in the last accepted factor experiment's back-test; ``model``: the
            last accepted model experiment's.
        loop: RD-Agent's loop index of that experiment.
        session: ``log``, ``snapshot`` and ``signature`` of what was read.
        times: ``exported_at_utc``, ``trained_at_utc`` (null when unknown), and train, valid and test segments.
        versions: ``rdagent_sota_patch``, ``rdagent``, ``qlib``, ``pandas``, ``numpy``, ``lightgbm``, ``torch``,
            ``python``; null for what is not installed where the bundle was written.
        provenance: For a model on SOTA factors of another log: what the plugin recorded (``sota_source``).
        files: Every file but the manifest and its signature, by relative POSIX path.
    """

    schema_version: Literal[1]
    kind: Literal["rdagent-sota-bundle"]
    stage: Literal["factor", "model"]
    factors_only: bool
    task_id: str
    loop: int
    session: dict[str, str]
    times: dict[str, Any]
    versions: dict[str, str | None]
    primary_assets: PrimaryAssets
    provenance: dict[str, Any] | None
    audit: Audit | Literal["not audited"]
    diagnostics: dict[str, Any]
    files: dict[str, ShippedFile]


class TriedOrder(Document):
    """One way in which a loader may have made the model's input, and what it gives for the back-test's own days."""

    order: Annotated[
        Literal["alpha_then_table", "table_then_alpha", "sorted", "told_by_model"],
        Field(
            description="Of the columns: Alpha features as configured, then the table's, or the other way round; "
            "sorted by name; as fitted processors or the weights name them."
        ),
    ]
    shared: Annotated[
        Literal["first", "last", "replaced"] | None,
        Field(
            description="Of a name that both have, which column stays, in the order above (the table's is the last "
            "unless it goes first): the first, the last, or the last one's values in the first one's place; null where "
            "no name is shared."
        ),
    ]
    join: Annotated[Join, Field(description="Whose rows are kept; see `join` of the document.")]
    taken: Annotated[bool, Field(description="Whether it is the one that the model was trained with.")]
    max_difference: Annotated[
        float | None,
        Field(
            description="Largest difference from the back-test's scores; null where they could not be compared, since "
            "rows or columns differ."
        ),
    ]
    outcome: Annotated[str, Field(description="The same in words.")]


class FactorOrder(Document):
    """``factor_order.json``: the columns of the model's input, in the order in which it was trained.

    The results API serves it, and its fields are described in the API's document.
    """

    version: Annotated[Literal["v1"], Field(description="Of this document's form.")]
    task_run_id: Annotated[str, Field(description="The run's id.")]
    loop_id: Annotated[int, Field(description="RD-Agent's loop index of the experiment.")]
    generated_at_utc: Annotated[str, Field(description="When it was exported, in ISO 8601 with offset.")]
    source_file: Annotated[str, Field(description="The factor table that the model was trained on.")]
    factor_order: Annotated[
        tuple[str, ...],
        Field(
            description="All features in the order of the model's input. RD-Agent's own templates sort them by name, "
            "Alpha and mined together (`NestedDataLoader.load`); other loaders do not."
        ),
    ]
    alpha_count: Annotated[int, Field(description="How many of them are Alpha features.")]
    alpha158_count: Annotated[
        int, Field(description="`alpha_count` under the name that readers of the first format look for.")
    ]
    dynamic_factor_count: Annotated[int, Field(description="How many of them are mined.")]
    dynamic_factor_order: Annotated[
        tuple[str, ...], Field(description="The mined factors as the factor table has them.")
    ]
    found: Annotated[
        Literal["loader", "proven"],
        Field(
            description="How the order is known: Qlib's own loaders are known to make it (`loader`), or it alone, of "
            "all that were tried, gives the back-test's scores (`proven`)."
        ),
    ] = "loader"
    join: Annotated[
        Join,
        Field(
            description="Whose rows the input has: those of the Alpha features and the label (`left`), of the factor "
            "table (`right`), of both (`inner`) or of either (`outer`)."
        ),
    ] = "left"
    tried: Annotated[
        tuple[TriedOrder, ...], Field(description="What was tried where the order had to be proven.")
    ] = ()

    @model_validator(mode="after")
    def _counts_agree(self) -> FactorOrder:
        if len(set(self.factor_order)) != len(self.factor_order):
            raise ValueError("factor_order names a feature twice")
        if not set(self.dynamic_factor_order) <= set(self.factor_order):
            raise ValueError("dynamic_factor_order names a factor that factor_order lacks")
        if self.dynamic_factor_count != len(self.dynamic_factor_order):
            raise ValueError("dynamic_factor_count is not the length of dynamic_factor_order")
        if self.alpha_count + self.dynamic_factor_count != len(self.factor_order):
            raise ValueError("alpha_count and dynamic_factor_count do not add up to factor_order")
        return self


class ShippedFactor(Document):
    """One accepted factor, with its code's place in the bundle or the reason why there is none.

    Attributes:
        in_table: Whether the factor table, and so the model, has it: upstream drops factors that correlate at
            0.99 or more with an earlier one.
    """

    index: int
    name: str
    description: str
    formulation: str
    variables: dict[str, str]
    loop: int
    metrics: dict[str, float | None]
    in_table: bool
    code_relpath: str | None
    missing_reason: str | None
    code: Annotated[str | None, Field(exclude=True)] = None
    """In the notes' layout: what is in that file."""


class ShippedFactors(Document):
    """``sota_factors.json``: every factor of every accepted experiment, oldest first.

    In the notes' layout (`notes_layout`) it is the list alone; what it is of, the manifest says.
    """

    schema_version: Literal[1]
    task_id: str
    factors: tuple[ShippedFactor, ...]

    @model_validator(mode="before")
    @classmethod
    def _take_list(cls, value: Any) -> Any:
        return (
            {"schema_version": SCHEMA_VERSION, "task_id": "", "factors": value}
            if isinstance(value, list)
            else value
        )


class AlphaFeature(Document):
    """One Alpha feature: its column's name and Qlib's expression."""

    name: str
    expression: str


def _require_kwargs(part: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(part.get("kwargs", {}), dict):
        raise ValueError("its kwargs are not an object")
    return part


TaskPart = Annotated[dict[str, Any], AfterValidator(_require_kwargs)]
"""``class``, ``module_path`` and ``kwargs`` of something in a Qlib task."""


class Options(BaseModel):
    """Base of what is read from ``kwargs``: of the right types, beside others that do not matter here."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ProcessorOptions(Options):
    """The ``kwargs`` of Qlib's processors that can be applied here (``qlib/data/dataset/processor.py``)."""

    fields_group: str | list[str | None] | None = None
    fill_value: Annotated[float, Field(strict=True)] = 0
    clip_outlier: bool = True
    method: Literal["zscore", "robust"] = "zscore"


class NetworkOptions(Options):
    """The ``kwargs`` of ``GeneralPTNN`` that scoring goes by.

    Attributes:
        batch_size: Samples at a time; as many are held in memory, whatever their number.
        pt_model_kwargs: What the network's class is called with.
    """

    batch_size: Annotated[int, Field(ge=1, le=1 << 24)] = 2000
    pt_model_kwargs: dict[str, Any] = {}


def _validate_options(options: type[Options], kwargs: dict[str, Any]) -> None:
    try:
        options.model_validate(kwargs)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"kwargs.{'.'.join(map(str, found['loc']))}: {found['msg']}") from error


QLIB_PROCESSORS = "qlib.data.dataset.processor"


class Processor(Document):
    """One of the handler's ``infer_processors``, in its place.

    Attributes:
        kwargs: As configured.
        columns: For a fitted one: the features in the order of ``mean`` and ``std``, null otherwise.
        mean, std: Fitted numbers per column, as Qlib divides by them (``RobustZScoreNorm.mean_train``, ``std_train``).
    """

    name: str
    module: str
    kwargs: dict[str, Any]
    columns: tuple[str, ...] | None = None
    mean: tuple[float | None, ...] | None = None
    std: tuple[float | None, ...] | None = None

    @property
    def options(self) -> ProcessorOptions:
        """``kwargs``, typed; of one of Qlib's own."""
        return ProcessorOptions.model_validate(self.kwargs)

    @model_validator(mode="after")
    def _has_options(self) -> Processor:
        if self.module == QLIB_PROCESSORS:
            _validate_options(ProcessorOptions, self.kwargs)
        return self


class Importance(Document):
    """What a feature meant to LightGBM: total gain and number of splits."""

    feature: str
    gain: float
    split: int


class Weights(Document):
    """The weights' files: the pickle as it was trained, and the form that can be read without unpickling."""

    pickle_relpath: str
    booster_relpath: str | None = None
    tensors_relpath: str | None = None
    code_relpath: str | None = None


Region = Literal["cn", "us", "tw"]
"""Those that Qlib has (``qlib/constant.py``); ``cn`` is its own default."""


class ModelMeta(Document):
    """``model_meta.json``.

    Attributes:
        kind: ``lightgbm`` (``LGBModel``) or ``torch`` (``GeneralPTNN``); ``other`` for what only its pickle holds.
        model: ``class``, ``module_path`` and ``kwargs`` of the Qlib task.
        dataset: Likewise, without the handler.
        handler: Likewise.
        segments: ``train``, ``valid``, ``test`` as pairs of ISO dates.
        step_len: Days per sample for a TimeSeries model, null for a tabular one.
        label: Column name to Qlib expression.
        alpha: The Alpha features that the model has, in ``factor_order``'s order; a mined factor of the same name
            replaces one.
        instruments: The market that was trained on, such as ``csi300``.
        region: Qlib's, of the training.
        feature_importance: By gain, largest first; null where the model has none.
    """

    schema_version: Literal[1]
    kind: Literal["lightgbm", "torch", "other"]
    model: TaskPart
    dataset: TaskPart
    handler: TaskPart
    segments: dict[str, tuple[str | None, str | None]]
    step_len: int | None
    label: dict[str, str]
    alpha: tuple[AlphaFeature, ...]
    instruments: str
    region: Region = "cn"
    processors: tuple[Processor, ...]
    weights: Weights
    feature_importance: tuple[Importance, ...] | None

    @property
    def network(self) -> NetworkOptions:
        """The model's ``kwargs``, typed; of a torch model."""
        return NetworkOptions.model_validate(self.model.get("kwargs", {}))

    @model_validator(mode="after")
    def _has_network(self) -> ModelMeta:
        if self.kind == "torch":
            _validate_options(NetworkOptions, self.model.get("kwargs", {}))
        return self

    @model_validator(mode="before")
    @classmethod
    def _leave_notes(cls, value: Any) -> Any:
        """The notes' layout adds two fields, for its own readers."""
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if name not in NOTES_META_FIELDS}


def _require_day(text: str) -> str:
    # pandas counts nanoseconds, and has no others.
    if dt.date.fromisoformat(text).isoformat() != text or not "1678" <= text[:4] <= "2261":
        raise ValueError("it is not a day such as 2020-10-05, from 1678 to 2261")
    return text


Day = Annotated[str, AfterValidator(_require_day)]
"""In ISO 8601, without a time or a zone."""


class ReplayNotes(Document):
    """``replay/replay.json``: which of the slice's days are compared; earlier ones are history for TimeSeries."""

    schema_version: Literal[1]
    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    predictions_rows: int
    slice_rows: int
