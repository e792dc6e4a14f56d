"""RD-Agent 1.0.0: features and dates are variables of the templates, filled in for each experiment."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factors.segments import Segments
from rdagent_sota_patch.plugin.alpha_entry import replace_alpha_loader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.plugin.host_source import HostSource

_ALPHA_FILE = "utils/qlib.py"
_SETTINGS_FILE = "app/qlib_rd_loop/conf.py"
_ATTRIBUTES = (
    ("components/workflow/rd_loop.py", "self.plan"),
    ("scenarios/qlib/experiment/model_experiment.py", "self.base_features"),
)
_FEATURE_GROUP = re.compile(
    r"^[ ]*feature:[ ]*\n[ ]*- \{\{ feature_expressions \}\}[ ]*\n[ ]*- \{\{ feature_names \}\}[ ]*\n",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Release10:
    """See `rdagent_sota_patch.plugin.release.Release`."""

    host: HostSource
    name: str = "1.0.0"
    returns_name: str = "ret.parquet"
    signs_sessions: bool = True
    runs_feature_codes: bool = True

    @staticmethod
    def is_laid_out_in(template: str) -> bool:
        """Whether ``template`` is one of this release."""
        return _FEATURE_GROUP.search(template) is not None

    def alpha_features(self) -> dict[str, str]:
        """``ALPHA20`` of ``rdagent/utils/qlib.py``."""
        for node in self.host.parse(_ALPHA_FILE).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "ALPHA20" for target in node.targets
            ):
                try:
                    features = ast.literal_eval(node.value)
                except ValueError:
                    break
                return {str(name): str(expression) for name, expression in features.items()}
        raise HostError(
            "host-changed",
            f"{self.host}: {_ALPHA_FILE} does not define ALPHA20 as a dictionary.",
            "See docs/activation.md for the releases that are supported.",
        )

    def features_of_run(self, loop: Any) -> Mapping[str, str]:
        """Those of the loop's plan, which ``--base-features-path`` may have changed."""
        features: Mapping[str, str] = loop.plan["features"]
        return features

    def features_of(self, exp: Any) -> Mapping[str, str]:
        """``exp.base_features``, copied from the plan when the experiment was made."""
        features: Mapping[str, str] = exp.base_features
        return features

    def segments(self) -> Segments:
        """``QLIB_MODEL_*``, as ``QlibModelRunner.develop`` reads them."""
        from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

        return Segments.parse(ModelBasePropSetting().model_dump())

    def drop_alpha(self, template: str) -> str:
        """The template with the label alone in the place of the Alpha features."""
        return replace_alpha_loader(template, _FEATURE_GROUP)

    def run_variables(self, alpha: Mapping[str, str], count: int) -> dict[str, str]:
        """Features and their number: all three are variables."""
        return {
            "num_features": str(count),
            "feature_names": str(list(alpha)),
            "feature_expressions": str(list(alpha.values())),
        }

    def changes(self) -> Iterator[str]:
        """Dates among the settings, features in the plan and on the experiment."""
        settings = {
            node.target.id
            for cls in self.host.parse(_SETTINGS_FILE).body
            if isinstance(cls, ast.ClassDef) and cls.name == "ModelBasePropSetting"
            for node in cls.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        for field in fields(Segments):
            if field.name not in settings:
                yield f"{_SETTINGS_FILE}: ModelBasePropSetting has no {field.name}."
        for file, attribute in _ATTRIBUTES:
            if attribute not in self.host.read(file):
                yield f"{file} does not set {attribute}."
