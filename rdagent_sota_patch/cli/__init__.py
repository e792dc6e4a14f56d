"""The ``rdagent-sota`` command: what people type, and the only place that prints."""

from rdagent_sota_patch.cli.main import app

__all__ = ["app"]
