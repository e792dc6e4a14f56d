"""A pickled Qlib model: which kind it is, and its weights in a form that can be read without unpickling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rdagent_sota_patch.recorders.fitted import plain
from rdagent_sota_patch.scoring.boosting import thaw_booster
from rdagent_sota_patch.scoring.tensors import thaw_network
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable

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
