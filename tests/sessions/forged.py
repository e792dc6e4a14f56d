"""Pickles made opcode by opcode: objects of classes that need not exist, and whole forged sessions."""

from __future__ import annotations

import pickle
import pickletools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

QLIB = "rdagent.scenarios.qlib.experiment"


@dataclass(eq=False)
class Made:
    """An object of any class: ``module.name(*args)``, then given its state."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


def forge(value: object) -> bytes:
    """The protocol 4 pickle of plain values and `Made` objects, shared ones written once."""
    return b"\x80\x04" + _Writer().write(value) + b"."


def called(module: str, name: str, *args: object) -> bytes:
    """A pickle that calls ``module.name(*args)`` when it is loaded by `pickle.load`."""
    return forge(Made(module, name, args))


class _Writer:
    def __init__(self) -> None:
        self.memo: dict[int, int] = {}

    def write(self, value: object) -> bytes:
        if isinstance(value, (list, dict, Made)) and id(value) in self.memo:
            return b"j" + struct.pack("<I", self.memo[id(value)])
        match value:
            case list():
                return b"]" + self._remember(value) + self._all(value, b"e")
            case dict():
                pairs = [part for pair in value.items() for part in pair]
                return b"}" + self._remember(value) + self._all(pairs, b"u")
            case tuple():
                return self._all(value, b"t")
            case Made():
                start = self.write(value.module) + self.write(value.name) + b"\x93"
                start += self.write(value.args) + b"R" + self._remember(value)
                if value.items:
                    start += self._all(value.items, b"e")
                return start + (b"" if value.state is None else self.write(value.state) + b"b")
            case _:
                # PROTO in front and STOP behind are the outer pickle's, and so is the memo.
                return pickletools.optimize(pickle.dumps(value, protocol=3))[2:-1]

    def _remember(self, value: object) -> bytes:
        self.memo[id(value)] = len(self.memo)
        return b"\x94"

    def _all(self, values: list[Any] | tuple[Any, ...], opcode: bytes) -> bytes:
        return b"(" + b"".join(self.write(value) for value in values) + opcode


def workspace(path: str, **files: str) -> Made:
    state = {
        "workspace_path": path,
        "file_dict": {name.replace("_py", ".py"): text for name, text in files.items()},
    }
    return Made("rdagent.scenarios.qlib.experiment.workspace", "QlibFBWorkspace", state=state)


def factor_experiment(*names: str, **attributes: object) -> Made:
    """A factor experiment whose factors all have code and passed the coder."""
    tasks = [
        Made("rdagent.components.coder.factor_coder.factor", "FactorTask", state={"factor_name": name})
        for name in names
    ]
    verdicts = [Made("m", "CoSTEERSingleFeedback", state={"final_decision": True}) for _ in names]
    state = {
        "sub_tasks": tasks,
        "sub_workspace_list": [workspace("/ws/sub", factor_py=f"code of {name}") for name in names],
        "prop_dev_feedback": Made("m", "CoSTEERMultiFeedback", state={"feedback_list": verdicts}),
        "based_experiments": [],
        "experiment_workspace": workspace("/ws/main"),
        **attributes,
    }
    return Made(f"{QLIB}.factor_experiment", "QlibFactorExperiment", state=state)


def model_experiment(**attributes: object) -> Made:
    task = Made("rdagent.components.coder.model_coder.model", "ModelTask", state={"name": "Net"})
    return Made(f"{QLIB}.model_experiment", "QlibModelExperiment", state={"sub_tasks": [task], **attributes})


def feedback(decision: object) -> Made:
    return Made("rdagent.core.proposal", "HypothesisFeedback", state={"decision": decision, "reason": "why"})


def saved_loop(*history: tuple[object, Made], **trace: object) -> Made:
    """A saved loop with this history of (experiment, feedback)."""
    state = {"hist": list(history), **trace}
    return Made(
        "rdagent.app.qlib_rd_loop.factor",
        "FactorRDLoop",
        state={"trace": Made("rdagent.core.proposal", "Trace", state=state)},
    )


def history(length: int) -> Made:
    """A loop with ``length`` accepted factor experiments."""
    return saved_loop(*((factor_experiment(f"F{index}"), feedback(True)) for index in range(length)))


def put(log: Path, loop: int, step: str, content: bytes | Made) -> Path:
    """Write one snapshot of a log."""
    path = log / "__session__" / str(loop) / step
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(forge(content) if isinstance(content, Made) else content)
    return path
