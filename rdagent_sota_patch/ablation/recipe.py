"""How a run's model is trained again: its boosting, its processors and its label, from what the run says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.ablation.walk import find_horizon
from rdagent_sota_patch.bundle.documents import QLIB_PROCESSORS
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rdagent_sota_patch.bundle.documents import ModelMeta

_CHOOSES_COLUMNS = frozenset({"FilterCol", "DropCol"})
"""What they leave is what the model's columns are, and those are read already."""
_KNOWN = frozenset({
    "RobustZScoreNorm", "ZScoreNorm", "MinMaxNorm", "Fillna", "DropnaProcessor", "CSZScoreNorm", "CSRankNorm",
    "CSZFillna", "DropnaLabel", "ProcessInf",
})  # fmt: skip
_THREADS = frozenset({"num_threads", "num_thread", "nthread", "nthreads", "n_jobs"})
_SEEDS = frozenset({
    "seed", "random_seed", "random_state", "data_random_seed", "data_seed", "extra_seed", "bagging_seed",
    "bagging_fraction_seed", "feature_fraction_seed", "drop_seed", "objective_seed", "deterministic",
})  # fmt: skip
_TEXTS = frozenset({"boosting", "boosting_type", "boost", "metric", "tree_learner", "data_sample_strategy"})
_REACHES_OUT = ("file", "machine", "port", "device", "gpu", "input", "output", "model_in")
"""In names of parameters with which LightGBM reads files or opens connections."""


@dataclass(frozen=True, slots=True)
class Boosting:
    """How LightGBM is trained.

    Attributes:
        params: Without threads and seeds, which are a trial's.
        rounds: At most.
        patience: Rounds without a gain on the validation days, after which it stops.
    """

    params: Mapping[str, Any]
    rounds: int = 1000
    patience: int = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One of Qlib's processors, to be fitted on a window's training days."""

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training.

    Attributes:
        infer: What every row goes through.
        learn: What the rows of training and validation go through after that.
        horizon: Days that the label looks ahead.
    """

    boosting: Boosting
    infer: tuple[Step, ...] = ()
    learn: tuple[Step, ...] = ()
    horizon: int = 0

    @property
    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        steps = [[[step.name, dict(step.kwargs)] for step in part] for part in (self.infer, self.learn)]
        return {
            "params": dict(self.boosting.params),
            "rounds": self.boosting.rounds,
            "patience": self.boosting.patience,
            "infer": steps[0],
            "learn": steps[1],
        }


def read_recipe(meta: ModelMeta) -> Recipe:
    """The training of a run's model.

    Raises:
        BundleError: ``model-not-ablated``: the model is not LightGBM by Qlib, or is trained in a way that is not known
            here; ``expression-refused``.
    """
    if meta.kind != "lightgbm":
        raise _not_ablated(f"it is {meta.model.get('class')} ({meta.kind})")
    if meta.handler.get("class") != "DataHandlerLP":
        raise _not_ablated(f"its handler is {meta.handler.get('class')}, which sets up processors of its own")
    kwargs = meta.handler.get("kwargs", {})
    if kwargs.get("process_type", "append") != "append":
        raise _not_ablated("its processors for training do not follow those for inference")
    if len(meta.label) != 1:
        raise _not_ablated(f"it has {len(meta.label)} labels")
    infer = (*_read_steps(kwargs.get("shared_processors")), *_read_steps(kwargs.get("infer_processors")))
    fitted = [processor.name for processor in meta.processors]
    if fitted != [step.name for step in infer]:
        raise _not_ablated(
            f"its features went through {', '.join(fitted) or 'nothing'}, which its task does not say"
        )
    return Recipe(
        _read_boosting(meta.model.get("kwargs", {})),
        infer,
        tuple(_read_steps(kwargs.get("learn_processors"))),
        max(map(find_horizon, meta.label.values())),
    )


def _read_boosting(kwargs: Mapping[str, Any]) -> Boosting:
    """As ``qlib/contrib/model/gbdt.py`` takes them."""
    kwargs = dict(kwargs)
    loss, rounds = kwargs.pop("loss", "mse"), kwargs.pop("num_boost_round", 1000)
    patience = kwargs.pop("early_stopping_rounds", 50)
    if loss not in ("mse", "binary") or type(rounds) is not int or type(patience) is not int:
        raise _not_ablated(f"its loss is {loss!r}, with {rounds!r} rounds and {patience!r} of patience")
    params: dict[str, Any] = {"objective": loss, "verbosity": -1}
    for name, value in kwargs.items():
        if name in _THREADS or name in _SEEDS:
            continue
        plain = isinstance(value, (bool, int, float)) or (name in _TEXTS and isinstance(value, str))
        if not plain or any(part in name for part in _REACHES_OUT):
            raise _not_ablated(f"its parameter {name} is {value!r}")
        params[name] = value
    return Boosting(params, rounds, patience)


def _read_steps(processors: object) -> Iterable[Step]:
    if not isinstance(processors, list):
        if processors is None:
            return
        raise _not_ablated(f"its processors are {processors!r}")
    for processor in processors:
        match processor:
            case str() as name:
                kwargs, module = dict[str, Any](), QLIB_PROCESSORS
            case {"class": str() as name}:
                kwargs, module = (
                    processor.get("kwargs") or {},
                    processor.get("module_path") or QLIB_PROCESSORS,
                )
            case _:
                raise _not_ablated(f"one of its processors is {processor!r}")
        name = name.rpartition(".")[2] if name.startswith(f"{QLIB_PROCESSORS}.") else name
        if name in _CHOOSES_COLUMNS:
            continue
        if name not in _KNOWN or module != QLIB_PROCESSORS:
            raise _not_ablated(f"its processor {name} of {module} is not known here")
        yield Step(name, {key: value for key, value in kwargs.items() if not key.startswith("fit_")})


def _not_ablated(why: str) -> BundleError:
    return BundleError(
        "model-not-ablated",
        f"This run's model cannot be trained again on other features here: {why}. No other model is taken in its "
        "place.",
        "What can be ablated is Qlib's LGBModel, which RD-Agent's factor stage trains: name that stage's log, or a "
        "bundle of it.",
    )
