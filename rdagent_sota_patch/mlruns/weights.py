"""Which kind a pickled model is, its weights, and the processors with their fitted numbers."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from rdagent_sota_patch.bundle.documents import QLIB_PROCESSORS, Processor
from rdagent_sota_patch.scoring.booster import thaw_booster
from rdagent_sota_patch.scoring.tensors import thaw_network
from rdagent_sota_patch.sessions.frames import thaw_array, thaw_index
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe, thaw_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

_BOOSTED = ("qlib.contrib.model.gbdt", "LGBModel")
_TORCH = ("qlib.contrib.model.pytorch_general_nn", "GeneralPTNN")


@dataclass(frozen=True, slots=True)
class Network:
    """How Qlib's ``GeneralPTNN`` made the network: ``model_cls(**kwargs)``.

    Attributes:
        uri: Where the class is, ``model.model_cls`` in RD-Agent's templates: ``model_cls`` of ``model.py``.
        kwargs: Such as ``num_features`` and, for a TimeSeries model, ``num_timesteps``.
        batch_size: Rows that Qlib predicts at once; the last bits of a sum may depend on it.
    """

    uri: str
    kwargs: Mapping[str, Any]
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class ModelWeights:
    """A model's weights; see `trained.TrainedModel`."""

    kind: Literal["lightgbm", "torch", "other"]
    booster_text: str | None = None
    tensors: Mapping[str, NDArray[np.generic]] | None = None
    network: Network | None = None


def thaw_weights(payload: object, *, whole: bool = True) -> ModelWeights:
    """The weights in an inert ``params.pkl``.

    Args:
        payload: Its content.
        whole: See `thaw_booster`.

    Raises:
        Unthawable: It is of a known class and in an unknown form. Any other class is of kind ``other``.
        BundleError: ``live-extra-missing``.
    """
    if not isinstance(payload, Inert):
        return ModelWeights("other")
    attributes = payload.attributes
    if payload.origin == _BOOSTED:
        return ModelWeights("lightgbm", booster_text=thaw_booster(attributes.get("model"), whole=whole))
    if payload.origin == _TORCH:
        uri, batch = attributes.get("pt_model_uri"), attributes.get("batch_size")
        kwargs = plain(attributes.get("pt_model_kwargs"))
        if type(uri) is not str or type(batch) is not int or batch < 1 or not isinstance(kwargs, dict):
            raise Unthawable("a GeneralPTNN that does not say how its network was made")
        tensors = thaw_network(attributes.get("dnn_model"))
        return ModelWeights("torch", tensors=tensors, network=Network(uri, kwargs, batch))
    return ModelWeights("other")


MODULE = QLIB_PROCESSORS
_FEATURES = "feature"
_FITTED = {
    "RobustZScoreNorm": ("mean_train", "std_train"),
    "ZScoreNorm": ("mean_train", "std_train"),
    "MinMaxNorm": ("min_val", "max_val"),
}
_METHODS = {("qlib.utils.data", "zscore"): "zscore", ("qlib.utils.data", "robust_zscore"): "robust"}
_LEFT_OUT = frozenset({"cols", "ignore", "zscore_func"})
"""What a processor keeps beside its configuration and its numbers."""


def thaw_processors(handler: Inert) -> tuple[Processor, ...]:
    """What every input goes through: the handler's shared processors, then those for inference.

    A fitted one has the features that it was fitted on, its ``mean`` (what is subtracted) and its ``std`` (what is
    divided by): for ``MinMaxNorm`` the least value and the range. Dates are ISO text.

    Raises:
        Unthawable: One is in an unknown form. One that is merely unknown is given as it is.
    """
    attributes = handler.attributes
    shared, infer = attributes.get("shared_processors", []), attributes.get("infer_processors")
    if not isinstance(shared, list) or not isinstance(infer, list):
        raise Unthawable(f"a handler without processors: {describe(handler)}")
    try:
        return tuple(_thaw_processor(processor) for processor in (*shared, *infer))
    except ValidationError as error:
        raise Unthawable(f"a processor that was configured oddly: {error.errors()[0]['msg']}") from error


def plain(value: object) -> Any:
    """Plain data as JSON knows it: dates as ISO text, tuples as lists.

    Raises:
        Unthawable: It holds anything else.
    """
    return _jsonable(thaw_plain(value))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise Unthawable("a configuration whose names are not all text")
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise Unthawable(f"a value that no document can hold: {type(value).__name__}")


def _thaw_processor(processor: object) -> Processor:
    if not isinstance(processor, Inert):
        raise Unthawable(f"a processor in an unknown form: {describe(processor)}")
    module, name = processor.origin
    attributes = processor.attributes
    if module != MODULE:
        # Whoever applies it has to know its name; its state may be anything.
        return Processor(
            name=processor.title, module=module if module.isprintable() else ascii(module), kwargs={}
        )
    numbers = _FITTED.get(name, ())
    kwargs = {
        key: _option(value)
        for key, value in attributes.items()
        if key not in _LEFT_OUT and key not in numbers
    }
    if name == "CSZScoreNorm":
        kwargs["method"] = _method(attributes.get("zscore_func"))
    if not numbers:
        return Processor(name=name, module=module, kwargs=kwargs)
    places, columns = _columns(attributes.get("cols"))
    first, second = (thaw_array(attributes.get(key)) for key in numbers)
    alike = (first.shape, first.dtype) == (second.shape, second.dtype)
    if not alike or first.shape != (len(places),) or first.dtype.kind != "f":
        raise Unthawable(
            f"{name} with numbers of shape {first.shape} and {second.shape} for {len(places)} columns"
        )
    if name == "MinMaxNorm":
        # In the numbers' own type, as Qlib does it.
        second = second - first
    kept = [place for place, is_feature in enumerate(places) if is_feature]
    return Processor(
        name=name,
        module=module,
        kwargs=kwargs,
        columns=columns,
        mean=_numbers(name, first[kept]),
        std=_numbers(name, second[kept]),
    )


def _option(value: object) -> Any:
    # FilterCol keeps its columns as an array once it has run.
    if (
        isinstance(value, Inert)
        and value.origin[0].partition(".")[0] == "numpy"
        and value.origin[1] != "scalar"
    ):
        return plain(thaw_array(value).tolist())
    return plain(value)


def _method(function: object) -> str:
    """Which of Qlib's two functions a ``CSZScoreNorm`` calls; it keeps no other word of it."""
    origin = getattr(function, "origin", ("", "")) if isinstance(function, type) else ("", "")
    if origin not in _METHODS:
        raise Unthawable("CSZScoreNorm with an unknown function")
    return _METHODS[origin]


def _columns(value: object) -> tuple[list[bool], tuple[str, ...]]:
    """For every fitted column whether it is a feature, and the features' names."""
    labels = thaw_index(value).tolist()
    pairs = [label if isinstance(label, tuple) else (_FEATURES, label) for label in labels]
    if not all(len(pair) == 2 and type(pair[1]) is str for pair in pairs):
        raise Unthawable("fitted columns that are not group and name")
    return [group == _FEATURES for group, _ in pairs], tuple(
        name for group, name in pairs if group == _FEATURES
    )


def _numbers(name: str, values: np.ndarray[Any, Any]) -> tuple[float | None, ...]:
    numbers = [float(value) for value in values]
    if any(map(math.isinf, numbers)):
        raise Unthawable(f"{name} with an infinite number: a feature has infinite values")
    return tuple(None if math.isnan(number) else number for number in numbers)


def choose_columns(
    columns: tuple[str, ...], processors: tuple[Processor, ...]
) -> tuple[tuple[str, ...], tuple[Processor, ...]]:
    """Resolve the processors that only choose columns (``FilterCol``, ``DropCol``).

    Args:
        columns: All features, in the order of Qlib's loader.
        processors: From `thaw_processors`.

    Returns:
        The features that are left, and the other processors, with numbers for those features alone.

    Raises:
        Unthawable: One of them comes after rows were dropped for what columns hold.
    """
    others: list[Processor] = []
    for processor in processors:
        if processor.module != MODULE or processor.name not in ("FilterCol", "DropCol"):
            others.append(processor)
            continue
        if any(other.name == "DropnaProcessor" for other in others):
            raise Unthawable(f"{processor.name} after DropnaProcessor")
        chosen = set(processor.kwargs.get("col_list", []))
        columns = tuple(name for name in columns if (name in chosen) == (processor.name == "FilterCol"))
    return columns, tuple(_restrict(processor, columns) for processor in others)


def _restrict(processor: Processor, columns: tuple[str, ...]) -> Processor:
    if processor.columns is None or processor.mean is None or processor.std is None:
        return processor
    if set(processor.columns) <= set(columns):
        return processor
    kept = [place for place, name in enumerate(processor.columns) if name in columns]
    update: Mapping[str, Any] = {
        "columns": tuple(processor.columns[place] for place in kept),
        "mean": tuple(processor.mean[place] for place in kept),
        "std": tuple(processor.std[place] for place in kept),
    }
    return processor.model_copy(update=update)
