"""RD-Agent 0.8.0: features and dates are written into the templates."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.factors.segments import Segments
from rdagent_sota_patch.plugin.alpha_entry import find_feature_group, replace_alpha_loader
from rdagent_sota_patch.plugin.host_source import CONFIG_NAME, MODEL_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.plugin.host_source import HostSource

# Two lists of texts in double quotes over several lines: expressions, then names. Qlib has no brackets within them.
_FEATURE_GROUP = re.compile(
    r"^[ ]*feature:[ ]*\n[ ]*- (?P<expressions>\[[^\[\]]*\])[ ]*\n[ ]*- (?P<names>\[[^\[\]]*\])[ ]*\n",
    re.MULTILINE,
)
# Only those of the dataset: the handler's end_time lies two years behind the last day that is tested.
_SEGMENT = re.compile(r"^[ ]*(train|valid|test): \[\s*([\d-]+)\s*,\s*([\d-]+)\s*\][ ]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Release08:
    """See `rdagent_sota_patch.plugin.release.Release`."""

    host: HostSource
    name: str = "0.8.0"
    returns_name: str = "ret.pkl"
    signs_sessions: bool = False
    runs_feature_codes: bool = False

    @staticmethod
    def is_laid_out_in(template: str) -> bool:
        """Whether ``template`` is one of this release."""
        return _FEATURE_GROUP.search(template) is not None

    def alpha_features(self) -> dict[str, str]:
        """Those written into the template for models on mined factors."""
        return _read_features(self.host.read(MODEL_TEMPLATE))

    def features_of_run(self, loop: Any) -> Mapping[str, str]:
        """The template's, whatever the run."""
        return self.alpha_features()

    def features_of(self, exp: Any) -> Mapping[str, str]:
        """Those of the template in the experiment's workspace; a factor experiment has none, and the same features."""
        template = exp.experiment_workspace.file_dict.get(CONFIG_NAME)
        return self.alpha_features() if template is None else _read_features(template)

    def segments(self) -> Segments:
        """The template's; no setting changes them."""
        days = {
            f"{name}_{edge}": day
            for name, *span in _SEGMENT.findall(self.host.read(MODEL_TEMPLATE))
            for edge, day in zip(("start", "end"), span, strict=True)
        }
        if len(days) != 6:
            raise HostError(
                "host-changed",
                f"{self.host}: {CONFIG_NAME} does not give the train, valid and test segments as two dates each.",
                "See docs/activation.md for the releases that are supported.",
            )
        return Segments.parse(days)

    def drop_alpha(self, template: str) -> str:
        """The template with the label alone in the place of the Alpha features."""
        return replace_alpha_loader(template, _FEATURE_GROUP)

    def run_variables(self, alpha: Mapping[str, str], count: int) -> dict[str, str]:
        """Their number alone; of those in the template, Qlib replaces the ones that a mined factor is named like."""
        return {"num_features": str(count)}

    def changes(self) -> Iterator[str]:
        """The template's dates."""
        try:
            self.segments()
        except SotaError as error:
            yield error.problems[0].message


def _read_features(template: str) -> dict[str, str]:
    group = find_feature_group(template, _FEATURE_GROUP)
    # YAML's flow lists of double-quoted texts are spelled like Python's.
    names, expressions = ast.literal_eval(group["names"]), ast.literal_eval(group["expressions"])
    return dict(zip(names, expressions, strict=True))
