"""What differs between the releases of RD-Agent, and which of them is here.

The only place that knows: the rest of the plugin asks the ``Release``. It is chosen by the source that is there and
not by its version, so that a newer release works as long as it is built like one of these.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.plugin.host_source import CONFIG_NAME, MODEL_TEMPLATE, HostSource, find_host
from rdagent_sota_patch.plugin.release_0_8 import Release08
from rdagent_sota_patch.plugin.release_1_0 import Release10

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.factors.segments import Segments


class Release(Protocol):
    """How a family of releases feeds its models and keeps its sessions."""

    @property
    def name(self) -> str:
        """The first release of the family."""

    @property
    def returns_name(self) -> str:
        """The daily returns that a back-test leaves (``rdagent/scenarios/qlib/experiment/workspace.py``)."""

    @property
    def signs_sessions(self) -> bool:
        """Whether its snapshots are signed. Where not, RD-Agent executes any that it is given."""

    @property
    def runs_feature_codes(self) -> bool:
        """Whether experiments may bring base features as code (``base_feature_codes``)."""

    def alpha_features(self) -> dict[str, str]:
        """The Alpha features that a new run uses, name to Qlib expression."""

    def features_of_run(self, loop: Any) -> Mapping[str, str]:
        """The Alpha features of a run (an ``RDLoop``)."""

    def features_of(self, exp: Any) -> Mapping[str, str]:
        """The Alpha features of an experiment (``QlibModelExperiment`` or ``QlibFactorExperiment``)."""

    def segments(self) -> Segments:
        """The dates of the model stage."""

    def drop_alpha(self, template: str) -> str:
        """The template for models on mined factors, with a loader of the label alone in the place of Alpha's."""

    def run_variables(self, alpha: Mapping[str, str], count: int) -> dict[str, str]:
        """What to put in the place of the template's variables.

        Args:
            alpha: The Alpha features that remain, name to expression.
            count: Number of features in all.
        """

    def changes(self) -> Iterator[str]:
        """What of all this the source does not bear out, in words; read as text."""


_FAMILIES = (Release10, Release08)


def installed_release() -> Release:
    """The description that fits the RD-Agent of this Python.

    Raises:
        HostError: There is no RD-Agent, or one that is built otherwise.
    """
    return release_of(find_host())


@functools.cache
def release_of(host: HostSource) -> Release:
    """The description that fits ``host``.

    Raises:
        HostError: None does.
    """
    template = host.read(MODEL_TEMPLATE)
    for family in _FAMILIES:
        if family.is_laid_out_in(template):
            return family(host)
    raise HostError(
        "host-changed",
        f"{host}: {CONFIG_NAME} names its Alpha features neither like 1.0.0 (as variables) nor like 0.8.0 (as lists)."
        if template
        else f"{host}: there is no {MODEL_TEMPLATE}.",
        "Use a supported release (docs/activation.md).",
    )
