"""The Alpha entry in RD-Agent's template for models on mined factors, and what stands there without Alpha.

An empty feature group is an error in Qlib, and ``Alpha158DL`` without one gives all 158 of its features, so that
another loader has to take its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.plugin.host_source import CONFIG_NAME

if TYPE_CHECKING:
    import re

_ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
_LABEL_LOADER = "qlib.data.dataset.loader.QlibDataLoader"


def find_feature_group(template: str, group: re.Pattern[str]) -> re.Match[str]:
    """The one place where ``template`` names its Alpha features, spelled as ``group``.

    Raises:
        HostError: There is none, or another number of them.
    """
    found = list(group.finditer(template))
    if template.count(_ALPHA_LOADER) != 1 or len(found) != 1:
        raise HostError(
            "host-changed",
            f"{CONFIG_NAME} of this RD-Agent does not name its Alpha features as expected "
            f"({template.count(_ALPHA_LOADER)} loaders {_ALPHA_LOADER}, {len(found)} feature groups).",
            "Use a supported release (docs/activation.md).",
        )
    return found[0]


def replace_alpha_loader(template: str, group: re.Pattern[str]) -> str:
    """``template`` with a loader of the label alone where the Alpha features were.

    Raises:
        HostError: The template does not name them as ``group``.
    """
    entry = find_feature_group(template, group)
    without = template[: entry.start()] + template[entry.end() :]
    return without.replace(_ALPHA_LOADER, _LABEL_LOADER)
