"""The readers of what strangers may have written: how each is given bytes, and good files to begin from."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_patch.bundle.documents import (
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    ORDER_NAME,
    REPLAY_NAME,
    TENSORS_NAME,
)
from rdagent_sota_patch.errors import SotaError

CANARY = "canary"
TRAP = "proof_trap"
"""A module that says so when it is imported; it lies in the folder that readers work in."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        seeds: Makes its good inputs in a folder of its own.
        read: Reads one input, in that folder; refuses with one of ``refusals``.
        parses: Audit events that are no more than its parsing.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    refusals: tuple[type[Exception], ...] = (SotaError,)
    parses: tuple[str, ...] = ()


def _session_seeds(_: Path) -> list[bytes]:
    from tests.sessions.forged import (
        Made,
        called,
        factor_experiment,
        feedback,
        forge,
        model_experiment,
        saved_loop,
    )

    acts = [Made("os", "system", (f"touch {CANARY}",)), Made(TRAP, "Trap"), Made("builtins", "eval", ("1",))]
    history = (
        (factor_experiment("A", "B"), feedback(True)),
        (model_experiment(), feedback(False)),
        (factor_experiment("C", extra=acts), feedback(True)),
    )
    return [
        forge(saved_loop(*history)),
        called("os", "system", f"touch {CANARY}"),
        *(pickle.dumps([{"a": (1, 2.5, "x", b"y", None)}] * 3, protocol=protocol) for protocol in range(6)),
    ]


def _read_session(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.sessions import locate_sota, read_session

    snapshot = folder / "log" / "__session__" / "0" / "4_record"
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    snapshot.write_bytes(data)
    return locate_sota(read_session(folder / "log"))


def _table_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import pandas as pd

    days = pd.date_range("2020-01-01", periods=30, freq="B")
    index = pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
    frame = pd.DataFrame(np.arange(120.0).reshape(60, 2), index=index, columns=["Gap", "Rev"])
    nested = frame.copy()
    nested.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    found = []
    for number, each in enumerate((frame, nested, frame.astype("float32"), frame.reset_index())):
        for codec in ("snappy", "zstd", None):
            path = folder / f"seed-{number}-{codec}.parquet"
            each.to_parquet(path, compression=codec)
            found.append(path.read_bytes())
            path.unlink()
    return found


def _read_table(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.factor_table.table import read_factor_table

    path = folder / "table.parquet"
    path.write_bytes(data)
    return read_factor_table(path)


def _bundle_in(folder: Path) -> Path:
    """Opened again and again, so made once."""
    from tests.bundle.made import make_bundle

    if not (folder / "bundle").exists():
        make_bundle(folder / "bundle")
    return folder / "bundle"


_DOCUMENTS = (MANIFEST_NAME, META_NAME, ORDER_NAME, FACTORS_NAME, REPLAY_NAME)


def _bundle_seeds(folder: Path) -> list[bytes]:
    """Each document with its number in front, so that one input is one document."""
    made = _bundle_in(folder)
    return [bytes([number]) + (made / name).read_bytes() for number, name in enumerate(_DOCUMENTS)]


def _read_bundle(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.bundle.opening import open_bundle
    from tests.bundle.made import replace_file

    name = _DOCUMENTS[data[0] % len(_DOCUMENTS)] if data else MANIFEST_NAME
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "bundle", copy)
    if name == MANIFEST_NAME:
        (copy / name).write_bytes(data[1:])
    else:
        # With its hash in the manifest: what is tried is what a forger would ship.
        replace_file(copy, name, data[1:])
    return open_bundle(copy)


def _listing_seeds(folder: Path) -> list[bytes]:
    return [(_bundle_in(folder) / MANIFEST_NAME).read_bytes()]


def _read_listing(_: Path, data: bytes) -> object:
    from rdagent_sota_patch.sync.listing import parse_listing

    return parse_listing(data, "made", replay=False)


def _booster_seeds(_: Path) -> list[bytes]:
    import numpy as np

    from tests.bundle.made import train_booster

    samples = np.random.default_rng(1).normal(size=(200, 3))
    text: str = train_booster(samples).model_to_string(num_iteration=2)
    return [text.encode()]


def _read_booster(_: Path, data: bytes) -> object:
    from rdagent_sota_patch.scoring.booster import take_sound_trees

    return take_sound_trees(data.decode("utf-8", "replace"))


def _tensor_seeds(folder: Path) -> list[bytes]:
    from tests.bundle.made import make_bundle

    made = make_bundle(folder / "network", kind="tabular").folder
    return [(made / TENSORS_NAME).read_bytes()]


def _read_tensors(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.scoring.tensors import read_tensors

    path = folder / "weights.safetensors"
    path.write_bytes(data)
    return read_tensors(path)


def _expression_seeds(_: Path) -> list[bytes]:
    texts = (
        "Ref($close, 5)/$close",
        "($high-$low)/$open",
        "Std($close, 20)/$close",
        "2 ** 3",
        "__import__('os')",
    )
    return [text.encode() for text in texts]


def _read_expression(_: Path, data: bytes) -> object:
    from rdagent_sota_patch.bundle.expressions import find_harm

    return find_harm(data.decode("utf-8", "replace"))


_ARTIFACTS = ("params.pkl", "dataset", "task")


def _recorder_seeds(folder: Path) -> list[bytes]:
    from tests.export.made_run import make_run

    workspace = make_run(folder / "run").workspace
    (artifacts,) = workspace.glob("mlruns/*/*/artifacts")
    return [bytes([number]) + (artifacts / name).read_bytes() for number, name in enumerate(_ARTIFACTS)]


def _read_recorder(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.mlruns.recorder import find_recorder
    from rdagent_sota_patch.mlruns.trained import read_trained, trained_columns

    (workspace,) = (folder / "run").glob("*/*/*/combined_factors_df.parquet")
    (artifacts,) = workspace.parent.glob("mlruns/*/*/artifacts")
    changed = artifacts / _ARTIFACTS[data[0] % len(_ARTIFACTS) if data else 0]
    with _kept(changed):
        changed.write_bytes(data[1:])
        return trained_columns(read_trained(find_recorder(workspace.parent)))


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(before)


def _state_seeds(folder: Path) -> list[bytes]:
    from rdagent_sota_patch.stages.state import STATE_NAME, Plan, begin_run

    made: Any = begin_run(Plan(factor_loops=2, model_loops=1, alpha=True), folder / "states")
    return [(made / STATE_NAME).read_bytes()]


def _read_state(folder: Path, data: bytes) -> object:
    from rdagent_sota_patch.stages.state import STATE_NAME, read_state

    (folder / STATE_NAME).write_bytes(data)
    return read_state(folder)


READERS = {
    "session": Reader(_session_seeds, _read_session),
    "table": Reader(_table_seeds, _read_table),
    "bundle": Reader(_bundle_seeds, _read_bundle),
    "recorder": Reader(_recorder_seeds, _read_recorder),
    "booster": Reader(_booster_seeds, _read_booster, (ValueError,)),
    "tensors": Reader(_tensor_seeds, _read_tensors),
    "expression": Reader(_expression_seeds, _read_expression, parses=("compile",)),
    "listing": Reader(_listing_seeds, _read_listing),
    "state": Reader(_state_seeds, _read_state),
}
