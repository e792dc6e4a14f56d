"""What the results API answers, as frozen objects: the source of its OpenAPI document, and what the client parses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from rdagent_sota_patch.results.fields import (
    Formula,
    HasSota,
    HistLen,
    Hypothesis,
    LoopClass,
    Metrics,
    SessionFile,
    Signed,
    TaskId,
    Text,
    Updated,
    Why,
)

IC = "IC"
ANNUALIZED_RETURN = "1day.excess_return_with_cost.annualized_return"
MAX_DRAWDOWN = "1day.excess_return_with_cost.max_drawdown"
INFORMATION_RATIO = "1day.excess_return_with_cost.information_ratio"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256, in hexadecimal.")]
RunKind = Literal["factor", "model", "quant", "other"]
COMMANDS: dict[RunKind, str] = {"factor": "fin_factor", "model": "fin_model", "quant": "fin_quant"}
"""RD-Agent's command for each kind of run."""
_CLASSES = {"factor": "QlibFactorExperiment", "model": "QlibModelExperiment"}
Kind = Annotated[RunKind, Field(description="Of `rdagent fin_factor`, `fin_model` or `fin_quant`.")]


class Answer(BaseModel):
    """Base of all answers: frozen, and refusing what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ProblemItem(Answer):
    """One thing that is wrong."""

    slug: Annotated[
        Text, Field(description="Stable identifier; the heading of its explanation in docs/messages.md.")
    ]
    message: Annotated[Text, Field(description="What is wrong, and where.")]
    hint: Annotated[Text, Field(description="What to do next; empty when the message says it all.")]


class ProblemDocument(Answer):
    """A problem document (RFC 9457), of media type `application/problem+json`."""

    type: Annotated[Text, Field(description="`urn:rdagent-sota:` and the slug.")]
    title: Annotated[Text, Field(description="The slug in words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[Text, Field(description="What is wrong, and where.")]
    instance: Annotated[Text, Field(description="The path that was asked for.")]
    slug: Annotated[Text, Field(description="Of the first problem.")]
    hint: Annotated[Text, Field(description="What to do next; may be empty.")]
    problems: Annotated[tuple[ProblemItem, ...], Field(description="All that is wrong.")]


class Health(Answer):
    """That the server answers."""

    ok: Annotated[Literal[True], Field(description="Always true.")] = True
    version: Annotated[Text, Field(description="Of rdagent-sota-patch.")]


class Best(Answer):
    """The best value of a metric among the accepted loops."""

    metric: Annotated[Text, Field(description="Its name in `qlib_res.csv`.")]
    value: Annotated[float, Field(description="The best one.")]
    loop: Annotated[int, Field(description="The loop that reached it.")]


BestValues = Annotated[
    tuple[Best, ...],
    Field(
        description="IC, ICIR, Rank IC, annualized return and maximum drawdown, each the best of the accepted loops."
    ),
]


class GivenFactor(Answer):
    """A factor that a model was given."""

    name: Annotated[Text, Field(description="Its column in the factor table.")]
    loop: Annotated[int | None, Field(description="The source's loop that proposed it; null when unknown.")]


class GivenItem(Answer):
    """Where the SOTA factors of a model come from, as the plugin recorded it."""

    source: Annotated[
        Text,
        Field(
            description="The run's id; for factors of a workspace or a saved file, which may not name a run, its path."
        ),
    ]
    kind: Annotated[Text, Field(description="`log`, `workspace` or `file`.")]
    task_id: Annotated[Text | None, Field(description="The run's id; null when it is not known.")]
    loop: Annotated[
        int | None, Field(description="The source's accepted loop whose table it is; null when unknown.")
    ]
    factors: Annotated[tuple[GivenFactor, ...], Field(description="In the order of the factor table.")]


class TaskItem(Answer):
    """One run in the list."""

    task_id: Annotated[Text, Field(description="The run's id: the name of its log folder.")]
    updated_at_utc: Updated
    kind: Annotated[
        RunKind | None,
        Field(
            description="Of `rdagent fin_factor`, `fin_model` or `fin_quant`; null when it cannot be read."
        ),
    ]
    loops: Annotated[int, Field(ge=0, description="Loops in its history that have a decision.")]
    has_sota: HasSota
    problem: Annotated[ProblemItem | None, Field(description="Why it cannot be read; null when it can.")]
    ended_at_utc: Annotated[
        Text | None,
        Field(
            description="When its last step ended, by the log itself, in ISO 8601; null where the log does not say."
        ),
    ] = None
    accepted: Annotated[int, Field(ge=0, description="Loops that it accepted, inherited ones aside.")] = 0
    best: BestValues = ()
    sota_loop: Annotated[
        int | None, Field(description="Loop of the last factor experiment that it accepted; null for none.")
    ] = None
    sota_factors: Annotated[
        int | None, Field(description="How many factors were accepted up to that loop; null for none.")
    ] = None
    given_from: Annotated[
        Text | None,
        Field(
            description="The run, or the path, whose SOTA factors its last loop that was given any was given; null "
            "for none."
        ),
    ] = None
    given_factors: Annotated[int | None, Field(description="How many they are; null for none.")] = None


class TaskList(Answer):
    """Runs, newest first unless another order was asked for."""

    tasks: Annotated[tuple[TaskItem, ...], Field(description="The runs that were asked for.")]
    total: Annotated[int, Field(ge=0, description="How many there are.")]
    limit: Annotated[int, Field(ge=1, description="How many were asked for.")]
    offset: Annotated[int, Field(ge=0, description="How many were passed over.")]


class AssetItem(Answer):
    """One asset that `asset_bytes` has, known from the log."""

    key: Annotated[Text, Field(description="What `asset_bytes` is asked for.")]
    role: Annotated[
        Literal["model_weight", "factor_code"], Field(description="Weights, or the code of a factor.")
    ]
    name: Annotated[Text | None, Field(description="The factor's name; null for weights.")]
    size: Annotated[int, Field(ge=0, description="In bytes.")]
    sha256: Sha256


class TaskManifest(Answer):
    """What a run is, and which of its assets can be had."""

    schema_version: Annotated[Literal[1], Field(description="Of this document.")] = 1
    task_id: TaskId
    updated_at_utc: Updated
    kind: Kind
    loop_class: LoopClass
    hist_len: HistLen
    has_sota: HasSota
    chosen_session_file: SessionFile
    signature: Signed
    assets: Annotated[
        tuple[AssetItem, ...],
        Field(description="Of the last accepted factor experiment and those before it."),
    ]
    bundle_stages: Annotated[
        tuple[Literal["factor", "model"], ...],
        Field(
            description="Stages of which the run accepted an experiment: those that `bundle` may be asked for."
        ),
    ]


class FactorItem(Answer):
    """A factor of an experiment."""

    name: Annotated[Text, Field(description="As the language model called it.")]
    description: Annotated[Text, Field(description="What it measures, in words.")]
    formulation: Formula
    variables: Annotated[dict[Text, Text], Field(description="Symbol to meaning.")]
    implemented: Annotated[
        bool, Field(description="Whether RD-Agent's coder accepted its code; only then a table has it.")
    ]
    key: Annotated[
        Text | None,
        Field(
            description="Key of its code for `asset_bytes`; null where it is not the SOTA's or has no code."
        ),
    ]


class ModelItem(Answer):
    """The model of an experiment."""

    name: Annotated[Text, Field(description="As the language model called it.")]
    model_type: Annotated[Text, Field(description="`Tabular` or `TimeSeries`.")]
    description: Annotated[Text, Field(description="What it is, in words.")]
    formulation: Formula
    architecture: Annotated[Text, Field(description="Its layers, in words.")]
    hyperparameters: Annotated[dict[Text, Text], Field(description="Of the network, by name.")]
    training_hyperparameters: Annotated[dict[Text, Text], Field(description="Of its training, by name.")]


class Origin(Answer):
    """Where an inherited experiment comes from."""

    task_id: Annotated[Text, Field(description="That run's id.")]
    loop: Annotated[int | None, Field(description="Its loop there.")]


class LoopItem(Answer):
    """One loop of a run."""

    loop: Annotated[int, Field(description="RD-Agent's loop index; negative for an inherited one.")]
    kind: Annotated[Literal["factor", "model", "other"], Field(description="What its experiment was about.")]
    decision: Annotated[bool | None, Field(description="Whether it was accepted.")]
    is_last_sota: Annotated[
        bool, Field(description="Whether it is the last accepted factor experiment, which the SOTA is.")
    ]
    hypothesis: Hypothesis
    reason: Annotated[Text, Field(description="Of the decision, by its feedback.")]
    factors: Annotated[
        tuple[FactorItem, ...], Field(description="Those it proposed; empty for a model experiment.")
    ]
    model: Annotated[
        ModelItem | None, Field(description="The one it proposed; null for a factor experiment.")
    ]
    metrics: Metrics
    sota_factor_count: Annotated[
        int | None, Field(description="How many SOTA factors of another run it was given; null for none.")
    ]
    num_features: Annotated[
        int | None, Field(description="How many features such an experiment had; null for others.")
    ]
    inherited_from: Annotated[
        Origin | None, Field(description="The run it was taken over from; null for the run's own.")
    ]
    given_from: Annotated[
        Text | None,
        Field(description="The run, or the path, whose SOTA factors it was given; null for none."),
    ] = None

    @computed_field(description="The same as `loop`.")  # type: ignore[prop-decorator]
    @property
    def loop_id(self) -> int:
        """RD-Agent's loop index."""
        return self.loop

    @computed_field(description="Whether the run accepted it; an inherited one is another run's.")  # type: ignore[prop-decorator]
    @property
    def is_sota(self) -> bool:
        """What a checkout's results server says of every accepted loop, of factors or of a model."""
        return self.decision is True and self.inherited_from is None

    @computed_field(description="Class of the experiment, by its kind; null for another.")  # type: ignore[prop-decorator]
    @property
    def exp_type(self) -> str | None:
        """RD-Agent's class."""
        return _CLASSES.get(self.kind)

    @computed_field(description="IC, of `metrics`.")  # type: ignore[prop-decorator]
    @property
    def valid_score(self) -> float | None:
        """Of the back-test."""
        return self.metrics.get("IC")

    @computed_field(description="The model's name; null for a factor experiment.")  # type: ignore[prop-decorator]
    @property
    def model_name(self) -> Text | None:
        """Of `model`."""
        return None if self.model is None else self.model.name

    @computed_field(description="Its kind, `Tabular` or `TimeSeries`; null for a factor experiment.")  # type: ignore[prop-decorator]
    @property
    def model_type_tag(self) -> Text | None:
        """Of `model`."""
        return None if self.model is None else self.model.model_type

    @computed_field(description="What it is, in words; null for a factor experiment.")  # type: ignore[prop-decorator]
    @property
    def model_description(self) -> Text | None:
        """Of `model`."""
        return None if self.model is None else self.model.description

    @computed_field(description="Its layers, in words; null for a factor experiment.")  # type: ignore[prop-decorator]
    @property
    def model_architecture(self) -> Text | None:
        """Of `model`."""
        return None if self.model is None else self.model.architecture

    @computed_field(description="The same as `decision`.")  # type: ignore[prop-decorator]
    @property
    def feedback(self) -> bool | None:
        """What RD-Agent's feedback decided."""
        return self.decision

    @computed_field(description="Annualized excess return after costs, of `metrics`.")  # type: ignore[prop-decorator]
    @property
    def annualized_return(self) -> float | None:
        """Of the back-test."""
        return self.metrics.get(ANNUALIZED_RETURN)

    @computed_field(description="Of the excess return after costs, of `metrics`; negative.")  # type: ignore[prop-decorator]
    @property
    def max_drawdown(self) -> float | None:
        """Of the back-test."""
        return self.metrics.get(MAX_DRAWDOWN)

    @computed_field(description="Of the excess return after costs, of `metrics`.")  # type: ignore[prop-decorator]
    @property
    def information_ratio(self) -> float | None:
        """Of the back-test."""
        return self.metrics.get(INFORMATION_RATIO)

    @computed_field(description="Names of the factors that were implemented, and so back-tested.")  # type: ignore[prop-decorator]
    @property
    def tested_factors(self) -> tuple[Text, ...]:
        """Factors in the back-test."""
        return tuple(factor.name for factor in self.factors if factor.implemented)

    @computed_field(description="Names of all factors that were proposed.")  # type: ignore[prop-decorator]
    @property
    def all_factors(self) -> tuple[Text, ...]:
        """Factors of the experiment."""
        return tuple(factor.name for factor in self.factors)

    @computed_field(description="Length of `tested_factors`.")  # type: ignore[prop-decorator]
    @property
    def tested_count(self) -> int:
        """How many factors were back-tested."""
        return len(self.tested_factors)

    @computed_field(description="Length of `all_factors`.")  # type: ignore[prop-decorator]
    @property
    def total_count(self) -> int:
        """How many factors were proposed."""
        return len(self.all_factors)


class ModelCode(Answer):
    """The code of a loop's model."""

    task_id: TaskId
    ok: Annotated[Literal[True], Field(description="Always true: what cannot be had is a problem.")] = True
    loop_id: Annotated[int, Field(description="RD-Agent's loop index.")]
    model_code: Annotated[Text, Field(description="Text of its `model.py`.")]


class LoopList(Answer):
    """A run's loops, oldest first."""

    task_id: TaskId
    ok: Annotated[Literal[True], Field(description="Always true: what cannot be read is a problem.")] = True
    loops: Annotated[tuple[LoopItem, ...], Field(description="Its whole history.")]

    @computed_field(description="How many loops.")  # type: ignore[prop-decorator]
    @property
    def count(self) -> int:
        """Length of the history."""
        return len(self.loops)


class SotaItem(Answer):
    """The last accepted factor experiment."""

    loop: Annotated[int, Field(description="RD-Agent's loop index.")]
    hypothesis: Hypothesis
    metrics: Metrics
    factors: Annotated[
        tuple[FactorItem, ...],
        Field(
            description="Of it and of the accepted ones before it, oldest first: what its table was made of."
        ),
    ]


class TaskSummary(Answer):
    """A run in short."""

    ok: Annotated[Literal[True], Field(description="Always true: what cannot be read is a problem.")] = True
    task_id: TaskId
    updated_at_utc: Updated
    kind: Kind
    hist_len: HistLen
    accepted: Annotated[int, Field(ge=0, description="Loops that were accepted, inherited ones aside.")]
    rejected: Annotated[int, Field(ge=0, description="Loops that were not, inherited ones aside.")]
    inherited: Annotated[int, Field(ge=0, description="Loops taken over from another run.")]
    best: BestValues
    sota: Annotated[
        SotaItem | None, Field(description="The last accepted factor experiment; null where there is none.")
    ]
    last_accepted_model: Annotated[LoopItem | None, Field(description="The last accepted model experiment.")]
    given: Annotated[
        GivenItem | None,
        Field(
            description="Where the SOTA factors come from that its last loop which was given any was given; null for "
            "none."
        ),
    ] = None
    skipped_snapshots: Annotated[
        int, Field(ge=0, description="Newer snapshots that could not be read, such as one being written.")
    ]


class SessionAnchor(Answer):
    """Which snapshot a run's answers are read from."""

    ok: Annotated[Literal[True], Field(description="Always true: without a snapshot it is a problem.")] = True
    task_id: TaskId
    chosen_session_file: SessionFile
    source_session_dir_id: Annotated[
        int | None, Field(description="The folder below `__session__`: RD-Agent's loop index.")
    ]
    hist_len: HistLen
    loop_class: LoopClass
    signature: Signed
    last_accepted_factor_index: Annotated[int | None, Field(description="Position in the history.")]
    last_accepted_model_index: Annotated[int | None, Field(description="Position in the history.")]


class BasedFactorEntry(Answer):
    """An earlier accepted factor experiment, which the SOTA was built on."""

    based_index: Annotated[int, Field(ge=0, description="The `i` in `based_factor_{i}/…`; 0 is the oldest.")]
    factors: Annotated[tuple[Text, ...], Field(description="Names of its factors.")]
    resolved_factor_entry_key: Annotated[
        Text | None, Field(description="Key of the code of its first factor that was implemented.")
    ] = None
    resolved_factor_entry_key_error: Why = None
    resolved_factor_entry_keys: Annotated[
        tuple[Text | None, ...],
        Field(
            description="One for each factor, in their order: the key of its code; null where there is none."
        ),
    ]
    resolved_factor_entry_keys_error: Why


class SotaFactorAnchor(Answer):
    """The last accepted factor experiment, and the keys under which `asset_bytes` has what it left.

    A field that cannot be given is null, and its `…_error` says why.
    """

    ok: Annotated[bool, Field(description="Whether every field could be given.")]
    task_id: TaskId
    chosen_session_file: SessionFile
    source_session_dir_id: Annotated[
        int | None, Field(description="The folder below `__session__`: RD-Agent's loop index.")
    ]
    source_session_dir_id_error: Why
    hist_len: HistLen
    last_sota_factor_index: Annotated[
        int | None, Field(description="Position of the experiment in the history.")
    ]
    last_sota_factor_index_error: Why
    factor_file_dict_keys: Annotated[
        tuple[Text, ...] | None, Field(description="Keys of the experiment's own files.")
    ]
    factor_file_dict_keys_error: Why
    resolved_factor_entry_key: Annotated[
        Text | None, Field(description="Key of the code of its first factor that was implemented.")
    ]
    resolved_factor_entry_key_error: Why
    based_factor_entries: Annotated[
        tuple[BasedFactorEntry, ...] | None,
        Field(description="The accepted factor experiments before it, oldest first."),
    ]
    based_factor_entries_error: Why
    resolved_model_weight_key: Annotated[
        Text | None, Field(description="Key of the weights that were trained in its back-test.")
    ]
    resolved_model_weight_key_error: Why
    resolved_model_weight_source: Annotated[
        Literal["factor_exp"] | None,
        Field(description="`factor_exp`: the weights are that experiment's own, and no other's."),
    ]
    resolved_model_weight_source_error: Why
    resolved_model_weight_sha256: Annotated[
        Sha256 | None, Field(description="Of those weights: the ETag of their answer.")
    ]
    resolved_model_weight_sha256_error: Why
    resolved_model_meta_key: Annotated[
        Text | None, Field(description="Key of the model's description: what its weights need to be used.")
    ]
    resolved_model_meta_key_error: Why
