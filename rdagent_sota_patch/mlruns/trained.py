"""What was trained: a recorder's model, its input and its numbers, read without running any of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from rdagent_sota_patch.bundle.documents import Region
from rdagent_sota_patch.errors import BundleError, Problem, SnapshotError
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.mlruns.loaders import thaw_loaders
from rdagent_sota_patch.mlruns.recorder import CONFIG, DATASET, TASK, WEIGHTS, read_artifact, unreadable
from rdagent_sota_patch.mlruns.weights import choose_columns, plain, thaw_processors, thaw_weights
from rdagent_sota_patch.scoring.booster import count_features, read_importance, read_real_names
from rdagent_sota_patch.scoring.processing import require_known
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rdagent_sota_patch.bundle.documents import (
        AlphaFeature,
        Importance,
        Join,
        Processor,
        TriedOrder,
    )
    from rdagent_sota_patch.mlruns.loaders import Arrangement, Loaded
    from rdagent_sota_patch.mlruns.recorder import Recorder
    from rdagent_sota_patch.mlruns.weights import ModelWeights, Network


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
        region: Qlib's.
        processors: What an input goes through, in this order; shared ones first. Those that only choose columns
            are resolved in ``columns`` and left out.
        join: Whose rows the input has.
        arrangement: How the columns were put together.
        shares_names: Whether the table has factors of Alpha features' names.
        unknown_loader: The class of a loader that is not Qlib's own; None for one that is.
        candidates: Where the loader is unknown and nothing is proven yet: this model with each arrangement that its
            configuration allows. Its own columns are then the first one's, and not to be relied on.
        tried: Where the arrangement was proven: what was tried for it.
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
    region: Region
    processors: tuple[Processor, ...]
    join: Join
    arrangement: Arrangement
    shares_names: bool
    unknown_loader: str | None = None
    candidates: tuple[TrainedModel, ...] = ()
    tried: tuple[TriedOrder, ...] = ()
    booster_text: str | None = None
    tensors: Mapping[str, NDArray[np.generic]] | None = None
    network: Network | None = None


_DATASETS = frozenset({("qlib.data.dataset", "DatasetH"), ("qlib.data.dataset", "TSDatasetH")})
_NOT_CARRIED = (
    "Only what RD-Agent's templates make can be carried; export its factors alone with --factors-only."
)


def read_trained(
    recorder: Recorder, *, table: Path | None = None, weights: bytes | None = None, whole: bool = True
) -> TrainedModel:
    """Read all that a bundle needs of a trained model.

    Args:
        recorder: From `find_recorder`.
        table: The factor table, where it is not at the place that the task names in the workspace.
        weights: The pickled model where it was kept elsewhere; the recorder's own ``params.pkl`` by default.
        whole: Off, a booster may keep rounds that it would not use to predict. What it takes is known by them as well,
            and LightGBM, which cuts them off, need not be there.

    Raises:
        BundleError: ``artifact-unreadable``, ``model-form-unknown``, ``model-table-missing``, ``processor-unknown``
            or ``live-extra-missing``.
        TableError: The factor table's footer cannot be read.
    """
    task, dataset = read_artifact(recorder, TASK), read_artifact(recorder, DATASET)
    payload = read_artifact(recorder, WEIGHTS) if weights is None else _read_weights(recorder, weights)
    try:
        return _assemble(recorder, plain(task), dataset, thaw_weights(payload, whole=whole), table)
    except Unthawable as error:
        raise BundleError(
            "model-form-unknown",
            f"{recorder.artifacts} holds a model that cannot be carried: {error}.",
            _NOT_CARRIED,
        ) from None


def trained_columns(trained: TrainedModel) -> tuple[str, ...]:
    """The columns of the model's input in their true order, held against all that the model says about it.

    Raises:
        BundleError: ``model-input-mismatch``: processors, table and weights are not of one experiment;
            ``input-order-unproven``: the loader is unknown, and nothing was proven yet.
    """
    if trained.candidates:
        raise BundleError(
            "input-order-unproven",
            f"{trained.recorder.folder}: the order of the model's input is not known: its data loader is "
            f"{trained.unknown_loader}.",
            "rdagent-sota export proves it on the back-test's own predictions.",
        )
    problems = find_contradictions(trained)
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
    return trained.columns


def find_contradictions(trained: TrainedModel) -> list[str]:
    """What fitted processors and weights say against a model's columns; sentences without their full stop."""
    columns = trained.columns
    problems = [
        f"{processor.name} was fitted on other columns: {_difference(processor.columns, columns)}"
        for processor in trained.processors
        if processor.columns is not None and processor.columns != columns
    ]
    if trained.booster_text is not None:
        count, names = count_features(trained.booster_text), read_real_names(trained.booster_text)
        if count != len(columns):
            problems.append(f"the weights are for {count} columns, and there are {len(columns)}")
        elif names is not None and names != tuple(name.replace(" ", "_") for name in columns):
            problems.append(f"the weights name other columns: {_difference(names, columns)}")
    if trained.network is not None:
        problems.extend(_network_problems(trained, trained.network))
    return problems


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
    recorder: Recorder, config: Any, dataset: object, weights: ModelWeights, table: Path | None
) -> TrainedModel:
    model, data, handler = _sections(config)
    pickled = dataset.attributes.get("handler") if isinstance(dataset, Inert) else None
    if not isinstance(dataset, Inert) or dataset.origin not in _DATASETS or not isinstance(pickled, Inert):
        raise Unthawable(f"a dataset in an unknown form: {describe(dataset)}")
    loaded = thaw_loaders(pickled, handler["kwargs"])
    table = _find_table(recorder, loaded, weights, table)
    names = tuple[str, ...]() if table is None else _table_names(table)
    processors = thaw_processors(pickled)
    arranged = tuple(
        TrainedModel(
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
            mined=mined,
            columns=columns,
            instruments=_instruments(pickled),
            region=_read_region(recorder),
            processors=resolved,
            join=arrangement.join,
            arrangement=arrangement,
            shares_names=not {feature.name for feature in loaded.alpha}.isdisjoint(names),
            unknown_loader=loaded.unknown,
            booster_text=weights.booster_text,
            tensors=weights.tensors,
            network=weights.network,
        )
        for arrangement, columns, mined, resolved in _arrange(loaded, names, processors, weights)
    )
    first = arranged[0]
    if not first.columns:
        raise Unthawable("no features at all")
    require_known(first.processors)
    return first if loaded.unknown is None else replace(first, candidates=arranged)


def _read_region(recorder: Recorder) -> Region:
    """Of the training's ``qlib_init``; Qlib's own default where the training names none."""
    if not (recorder.artifacts / CONFIG).is_file():
        return "cn"
    match read_artifact(recorder, CONFIG):
        case {"qlib_init": {"region": str() as name}} if name in get_args(Region):
            return cast("Region", name)
        case {"qlib_init": {"region": other}}:
            raise Unthawable(f"a region that Qlib does not have: {str(other)[:40]!r}")
    return "cn"


def _arrange(
    loaded: Loaded, table: tuple[str, ...], processors: tuple[Processor, ...], weights: ModelWeights
) -> list[tuple[Arrangement, tuple[str, ...], tuple[str, ...], tuple[Processor, ...]]]:
    """The arrangements that differ, each with columns, mined factors and processors.

    Without a table, or without shared names, most of a loader's arrangements are one and the same.
    """
    alpha = tuple(feature.name for feature in loaded.alpha)
    wanted = loaded.arrangements
    if loaded.unknown is not None:
        for told in _told_names(processors, weights):
            if set(told) <= {*alpha, *table}:
                wanted += tuple(
                    replace(each, order="told_by_model", told=told) for each in loaded.arrangements
                )
    arranged: dict[object, Any] = {}
    for arrangement in wanted:
        join = arrangement.join if loaded.table or table else "left"
        columns, mined = arrangement.arrange(alpha, table)
        columns, resolved = choose_columns(columns, processors)
        kept = set(columns)
        mined = tuple(name for name in mined if name in kept)
        arranged.setdefault(
            (columns, mined, join), (replace(arrangement, join=join), columns, mined, resolved)
        )
    return list(arranged.values())


def _told_names(processors: tuple[Processor, ...], weights: ModelWeights) -> list[tuple[str, ...]]:
    """Names in an order that the model itself has kept."""
    told = [processor.columns for processor in processors if processor.columns is not None]
    names = None if weights.booster_text is None else read_real_names(weights.booster_text)
    return [*told[:1], *([] if names is None else [names])]


def _find_table(recorder: Recorder, loaded: Loaded, weights: ModelWeights, table: Path | None) -> Path | None:
    """The factor table on this machine; None where the model has none.

    A loader that is unknown need not have its path in its configuration: then it is RD-Agent's own, if the model has
    more columns than there are Alpha features.
    """
    if loaded.table is not None:
        return table or recorder.workspace / loaded.table
    if loaded.unknown is None:
        return None
    path = table or recorder.workspace / TABLE_NAME
    return path if path.is_file() and _count_columns(weights) != len(loaded.alpha) else None


def _count_columns(weights: ModelWeights) -> int | None:
    if weights.booster_text is not None:
        return count_features(weights.booster_text)
    count = weights.network.kwargs.get("num_features") if weights.network is not None else None
    return count if type(count) is int else None


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
    if instruments is None:
        # As Qlib takes it: all that there are.
        return "all"
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
