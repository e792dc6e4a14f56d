"""What was trained: a recorder's model, its input and its numbers, read without running any of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rdagent_sota_patch.errors import BundleError, Problem, SnapshotError
from rdagent_sota_patch.factors.schema import read_names
from rdagent_sota_patch.recorders.fitted import choose_columns, plain, thaw_processors
from rdagent_sota_patch.recorders.loaders import thaw_loaders
from rdagent_sota_patch.recorders.recorder import DATASET, TASK, WEIGHTS, read_artifact, unreadable
from rdagent_sota_patch.recorders.weights import thaw_weights
from rdagent_sota_patch.scoring.boosting import count_features, read_importance
from rdagent_sota_patch.scoring.processing import require_known
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rdagent_sota_patch.bundle.documents import AlphaFeature, Importance, Processor
    from rdagent_sota_patch.recorders.recorder import Recorder
    from rdagent_sota_patch.recorders.weights import Network


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A trained model, as far as it can be read without unpickling. All dates are ISO text.

    Attributes:
        kind: ``lightgbm`` (``LGBModel``), ``torch`` (``GeneralPTNN``), or ``other`` for what only its pickle holds.
        config: The recorder's task, ready for JSON.
        model: ``class``, ``module_path`` and ``kwargs`` of the task.
        dataset: Likewise, without the handler.
        handler: Likewise.
        segments: ``train``, ``valid``, ``test``.
        step_len: Days per sample of a TimeSeries model; None for a tabular one.
        label: Column to Qlib expression.
        alpha: All Alpha features that Qlib loaded, in the loader's order; see `trained_alpha` for the model's.
        table: The factor table that Qlib loaded beside them, on this machine; None for Alpha alone.
        mined: The table's factors in column order, from its footer, as far as the model has them.
        columns: The model's input in the order of training, as loaders, table and task give it; use
            `trained_columns`, which holds it against what the model says itself.
        instruments: The market, such as ``csi300``.
        processors: What an input goes through, in this order; shared ones first. Those that only choose columns
            are resolved in ``columns`` and left out.
        booster_text: LightGBM's text format; ``lightgbm.Booster(model_str=…).predict`` is the model's own.
        tensors: The network's ``state_dict``.
        network: How the network was made.
    """

    recorder: Recorder
    kind: Literal["lightgbm", "torch", "other"]
    config: Mapping[str, Any]
    model: dict[str, Any]
    dataset: dict[str, Any]
    handler: dict[str, Any]
    segments: dict[str, tuple[str | None, str | None]]
    step_len: int | None
    label: dict[str, str]
    alpha: tuple[AlphaFeature, ...]
    table: Path | None
    mined: tuple[str, ...]
    columns: tuple[str, ...]
    instruments: str
    processors: tuple[Processor, ...]
    booster_text: str | None = None
    tensors: Mapping[str, NDArray[np.generic]] | None = None
    network: Network | None = None


_DATASETS = frozenset({("qlib.data.dataset", "DatasetH"), ("qlib.data.dataset", "TSDatasetH")})
_NOT_CARRIED = (
    "Only what RD-Agent's templates make can be carried; export its factors alone with --factors-only."
)


def read_trained(
    recorder: Recorder, *, table: Path | None = None, weights: bytes | None = None
) -> TrainedModel:
    """Read all that a bundle needs of a trained model.

    Args:
        recorder: From `find_recorder`.
        table: The factor table, where it is not at the place that the task names in the workspace.
        weights: The pickled model where it was kept elsewhere; the recorder's own ``params.pkl`` by default.

    Raises:
        BundleError: ``artifact-unreadable``, ``model-form-unknown``, ``model-table-missing``, ``processor-unknown``
            or ``live-extra-missing``.
        TableError: The factor table's footer cannot be read.
    """
    task, dataset = read_artifact(recorder, TASK), read_artifact(recorder, DATASET)
    payload = read_artifact(recorder, WEIGHTS) if weights is None else _read_weights(recorder, weights)
    try:
        return _assemble(recorder, plain(task), dataset, payload, table)
    except Unthawable as error:
        raise BundleError(
            "model-form-unknown",
            f"{recorder.artifacts} holds a model that cannot be carried: {error}.",
            _NOT_CARRIED,
        ) from None


def trained_columns(trained: TrainedModel) -> tuple[str, ...]:
    """The columns of the model's input in their true order, held against all that the model says about it.

    Raises:
        BundleError: ``model-input-mismatch``: processors, table and weights are not of one experiment.
    """
    columns = trained.columns
    problems = [
        f"{processor.name} was fitted on other columns: {_difference(processor.columns, columns)}"
        for processor in trained.processors
        if processor.columns is not None and processor.columns != columns
    ]
    if trained.booster_text is not None and count_features(trained.booster_text) != len(columns):
        problems.append(
            f"the weights are for {count_features(trained.booster_text)} columns, and there are {len(columns)}"
        )
    if trained.network is not None:
        problems.extend(_network_problems(trained, trained.network))
    if problems:
        raise BundleError.of(
            [
                Problem(
                    "model-input-mismatch",
                    f"{trained.recorder.folder}: {problem}.",
                    "Weights, dataset and factor table are not of one experiment; restore the workspace.",
                )
                for problem in problems
            ]
        )
    return columns


def trained_alpha(trained: TrainedModel) -> tuple[AlphaFeature, ...]:
    """The Alpha features among the columns, in their order; a mined factor of the same name replaces one."""
    alpha = {feature.name: feature for feature in trained.alpha}
    mined = set(trained.mined)
    return tuple(alpha[name] for name in trained.columns if name not in mined)


def trained_importance(trained: TrainedModel) -> tuple[Importance, ...] | None:
    """Every input column's gain and splits, largest gain first; None for a model that has none.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    if trained.booster_text is None:
        return None
    return read_importance(trained.booster_text, trained_columns(trained))


def _read_weights(recorder: Recorder, weights: bytes) -> Any:
    try:
        return read_inert(weights)
    except SnapshotError as error:
        raise unreadable(recorder.weights, error.problems[0].message) from None


def _assemble(
    recorder: Recorder, config: Any, dataset: object, payload: object, table: Path | None
) -> TrainedModel:
    model, data, handler = _sections(config)
    pickled = dataset.attributes.get("handler") if isinstance(dataset, Inert) else None
    if not isinstance(dataset, Inert) or dataset.origin not in _DATASETS or not isinstance(pickled, Inert):
        raise Unthawable(f"a dataset in an unknown form: {describe(dataset)}")
    loaded = thaw_loaders(pickled, handler["kwargs"])
    if loaded.table is None:
        table, mined = None, tuple[str, ...]()
    else:
        table = recorder.workspace / loaded.table if table is None else table
        mined = _table_names(table)
    shared = {feature.name for feature in loaded.alpha} & set(mined)
    if shared and not loaded.table_last:
        raise Unthawable(f"an Alpha feature that replaces a mined factor: {min(shared)}")
    names = dict.fromkeys((*(feature.name for feature in loaded.alpha), *mined))
    ordered = tuple(sorted(names) if loaded.sorts else names)
    columns, processors = choose_columns(ordered, thaw_processors(pickled))
    if not columns:
        raise Unthawable("no features at all")
    require_known(processors)
    weights = thaw_weights(payload)
    return TrainedModel(
        recorder=recorder,
        kind=weights.kind,
        config=config,
        model=model,
        dataset=data,
        handler=handler,
        segments=_segments(data),
        step_len=_step_len(dataset),
        label=loaded.label,
        alpha=loaded.alpha,
        table=table,
        mined=tuple(name for name in mined if name in columns),
        columns=columns,
        instruments=_instruments(pickled),
        processors=processors,
        booster_text=weights.booster_text,
        tensors=weights.tensors,
        network=weights.network,
    )


def _sections(config: object) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The model, the dataset without its handler, and the handler of a task."""
    match config:
        case {
            "model": {"class": str(), "module_path": str()} as model,
            "dataset": {
                "class": str(),
                "kwargs": {"handler": {"class": str(), "kwargs": dict()} as handler, **options},
            } as dataset,
        }:
            return dict(model), {**dataset, "kwargs": options}, dict(handler)
    raise Unthawable("a task without model, dataset and handler")


def _segments(dataset: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    segments = dataset["kwargs"].get("segments")
    match segments:
        case {"train": [_, _], "valid": [_, _], "test": [_, _]} if all(
            bound is None or type(bound) is str for pair in segments.values() for bound in pair
        ):
            return {name: (start, end) for name, (start, end) in segments.items()}
    raise Unthawable("segments that are not train, valid and test")


def _step_len(dataset: Inert) -> int | None:
    if dataset.origin[1] != "TSDatasetH":
        return None
    step_len = dataset.attributes.get("step_len")
    if type(step_len) is not int or step_len < 1 or dataset.attributes.get("flt_col") is not None:
        raise Unthawable("a TSDatasetH with a filter, or without a length of its samples")
    return step_len


def _instruments(handler: Inert) -> str:
    instruments = handler.attributes.get("instruments")
    if type(instruments) is not str:
        raise Unthawable(f"instruments that are not a market's name: {describe(instruments)}")
    return instruments


def _table_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise BundleError(
            "model-table-missing",
            f"{path} is gone: the factor table that the model was trained on, whose footer has its columns.",
            "Restore the workspace, or run the experiment again.",
        )
    return read_names(path)


def _network_problems(trained: TrainedModel, network: Network) -> list[str]:
    """What the weights say about themselves, against the task and the columns."""
    problems = []
    asked = trained.model.get("kwargs", {}).get("pt_model_kwargs")
    if asked != network.kwargs:
        problems.append(
            f"the weights are of a network made with {dict(network.kwargs)}, the task asks for {asked}"
        )
    features = network.kwargs.get("num_features")
    if features is not None and features != len(trained.columns):
        problems.append(f"the network was made for {features} columns, and there are {len(trained.columns)}")
    return problems


def _difference(fitted: tuple[str, ...], columns: tuple[str, ...]) -> str:
    missing, added = sorted(set(columns) - set(fitted)), sorted(set(fitted) - set(columns))
    if not missing and not added:
        return "the same in another order"
    parts = [f"without {', '.join(missing)}"] if missing else []
    return " and ".join([*parts, *([f"with {', '.join(added)}"] if added else [])])
