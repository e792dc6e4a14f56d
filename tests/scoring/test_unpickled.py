"""Models that only their pickle holds: never unpickled without trust, and then scored by their own predict."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdagent_sota_patch.bundle.documents import CODE_NAME, META_NAME, WEIGHTS_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.signing import sign_manifest
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.replay import replay_slice
from rdagent_sota_patch.scoring.scoring import load_scorer
from tests.bundle.made import (
    edit_document,
    fit_processors,
    make_bundle,
    make_samples,
    process,
    replace_file,
    train_booster,
)

KEY = bytes(range(32))


def call_it_other(meta: dict[str, Any]) -> None:
    meta["kind"] = "other"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose model is Qlib's LGBModel, and described as one of a kind that is not known."""
    from qlib.contrib.model.gbdt import LGBModel

    made = make_bundle(tmp_path / "bundle")
    model = LGBModel()
    samples, _ = make_samples(process(made.raw, fit_processors(made.raw)), None)
    model.model = train_booster(samples)
    replace_file(made.folder, WEIGHTS_NAME, pickle.dumps(model))
    edit_document(made.folder, META_NAME, call_it_other)
    return made.folder


def test_trusted_it_scores_as_in_the_back_test(folder: Path) -> None:
    """By its own predict, on samples processed here."""
    replayed = replay_slice(folder, trust=True)
    assert replayed.max_difference == 0.0 and replayed.within


def test_a_signature_with_the_users_key_is_trust(folder: Path) -> None:
    """And a bundle that was not checked with it is not trusted."""
    sign_manifest(folder, KEY)
    scorer = load_scorer(open_bundle(folder, key=KEY), trust=False)
    assert scorer.predict(np.zeros((3, 4))).shape == (3,)
    with pytest.raises(BundleError) as caught:
        load_scorer(open_bundle(folder), trust=False)
    assert caught.value.slug == "trust-needed"


class Attack:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import pathlib; pathlib.Path({self.trace!r}).touch()",)


def test_nothing_is_unpickled_without_trust(folder: Path, tmp_path: Path) -> None:
    """A refused model is not looked into."""
    trace = tmp_path / "trace"
    replace_file(folder, WEIGHTS_NAME, pickle.dumps(Attack(trace)))
    bundle = open_bundle(folder)
    with pytest.raises(BundleError) as caught:
        load_scorer(bundle, trust=False)
    assert caught.value.slug == "trust-needed"
    assert not trace.exists()
    load_scorer(bundle, trust=True)
    assert trace.exists(), "the attack works where it is trusted, so the test can see it"


def test_what_there_is_a_text_of_is_never_unpickled(tmp_path: Path) -> None:
    """Not even with trust."""
    trace = tmp_path / "trace"
    made = make_bundle(tmp_path / "bundle")
    replace_file(made.folder, WEIGHTS_NAME, pickle.dumps(Attack(trace)))
    assert replay_slice(made.folder, trust=True).within
    assert not trace.exists()


def test_a_pickle_that_does_not_do_is_an_error(folder: Path) -> None:
    """No pickle, and no model."""
    for content in (b"", b"no pickle", pickle.dumps(3)):
        replace_file(folder, WEIGHTS_NAME, content)
        with pytest.raises(BundleError) as caught:
            load_scorer(open_bundle(folder), trust=True).predict(np.zeros((1, 4)))
        assert caught.value.slug == "model-unreadable"


def test_a_time_series_model_of_another_kind_is_refused(folder: Path) -> None:
    """What its samples look like is not known."""
    edit_document(folder, META_NAME, lambda meta: meta.update(step_len=3))
    with pytest.raises(BundleError) as caught:
        load_scorer(open_bundle(folder), trust=True)
    assert caught.value.slug == "model-unknown"


SUMMING = """
import numpy as np

class Summing:
    def predict(self, dataset):
        return np.asarray(dataset.prepare("test", col_set="feature").sum(axis=1))
"""


def test_a_class_of_the_bundles_own_code_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled network's class is in model.py, which nobody has installed; afterwards no module is left."""
    module = types.ModuleType("model")
    exec(SUMMING, module.__dict__)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "model", module)
        content = pickle.dumps(module.Summing())
    made = make_bundle(tmp_path / "bundle", "tabular")
    replace_file(made.folder, WEIGHTS_NAME, content)
    replace_file(made.folder, CODE_NAME, SUMMING.encode())
    edit_document(made.folder, META_NAME, call_it_other)
    scorer = load_scorer(open_bundle(made.folder), trust=True)
    assert np.array_equal(scorer.predict(np.ones((2, 4))), [4.0, 4.0])
    assert "model" not in sys.modules


ASKING = """
class Asking:
    def predict(self, dataset):
        return dataset.prepare("test", col_set="label")
"""


def test_a_model_that_asks_for_the_label_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new day has none; the error says so, and is not one of Python's."""
    module = types.ModuleType("model")
    exec(ASKING, module.__dict__)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "model", module)
        content = pickle.dumps(module.Asking())
    made = make_bundle(tmp_path / "bundle", "tabular")
    replace_file(made.folder, WEIGHTS_NAME, content)
    replace_file(made.folder, CODE_NAME, ASKING.encode())
    edit_document(made.folder, META_NAME, call_it_other)
    scorer = load_scorer(open_bundle(made.folder), trust=True)
    with pytest.raises(BundleError, match="'label'") as caught:
        scorer.predict(np.ones((2, 4)))
    assert caught.value.slug == "model-input-mismatch"
