"""Networks: confined unless trusted, the same scores either way, and what does not fit is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.bundle.documents import CODE_NAME, META_NAME, TENSORS_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import Confinement, what_confines
from rdagent_sota_patch.scoring.network import NetworkScorer, load_network
from tests.bundle.made import NETWORK_CODE, edit_document, make_bundle, replace_file

SAMPLES = np.random.default_rng(4).normal(size=(30, 4))

confined_only = pytest.mark.skipif(
    what_confines().notice() is not None, reason="this system cannot keep code in"
)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("pattern") / "bundle", "tabular").folder


@pytest.fixture
def folder(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "bundle")


def load(folder: Path, *, trusted: bool = True) -> NetworkScorer:
    return load_network(open_bundle(folder), trusted=trusted)


def refused(folder: Path, samples: np.ndarray = SAMPLES, *, trusted: bool = True) -> BundleError:
    """The error of scoring with it."""
    with pytest.raises(BundleError) as caught:
        load(folder, trusted=trusted).predict(samples)
    return caught.value


@confined_only
def test_confined_scores_are_those_of_this_process(folder: Path) -> None:
    """The same program, in a jail or not."""
    confined = load(folder, trusted=False)
    assert confined.limits is not None
    scores = confined.predict(SAMPLES)
    assert scores.dtype == np.float32
    assert np.array_equal(scores, load(folder).predict(SAMPLES))


@confined_only
def test_the_code_of_a_stranger_runs_nowhere_else(folder: Path, tmp_path: Path) -> None:
    """Opening, loading and scoring leave nothing behind and tell nothing; the attempt is an error."""
    trace = tmp_path / "trace"
    attack = f"with open({str(trace)!r}, 'w'): pass\n"
    replace_file(folder, CODE_NAME, (attack + NETWORK_CODE).encode())
    error = refused(folder, trusted=False)
    assert error.slug == "network-failed"
    assert not trace.exists()
    load(folder).predict(SAMPLES)
    assert trace.exists(), "the attack works where it is trusted, so the test can see it"


@confined_only
@pytest.mark.parametrize(
    "write",
    [
        "import os; os._exit(0)",
        "import os, numpy; numpy.save('scores.npy', numpy.array([print], dtype=object)); "
        "open('outcome.json', 'w').write('{\"error\": null, \"mismatch\": false}'); os._exit(0)",
    ],
    ids=["nothing", "pickled"],
)
def test_what_confined_code_leaves_is_not_believed(folder: Path, write: str) -> None:
    """No scores, or pickled objects in their place: errors, and nothing is unpickled."""
    replace_file(folder, CODE_NAME, write.encode())
    assert refused(folder, trusted=False).slug in {"network-failed", "program-bad-output", "program-failed"}


@confined_only
def test_code_that_never_ends_is_ended(folder: Path) -> None:
    """Within the limits that it is given."""
    replace_file(folder, CODE_NAME, b"while True: pass")
    scorer = load_network(open_bundle(folder), trusted=False, limits=Limits(seconds=2))
    with pytest.raises(BundleError) as caught:
        scorer.predict(SAMPLES)
    assert caught.value.slug == "program-over-limit"


def test_where_nothing_confines_trust_is_needed(folder: Path, mocker: MockerFixture) -> None:
    """A stranger's code does not run because the system is old."""
    mocker.patch(
        "rdagent_sota_patch.scoring.network.what_confines",
        return_value=Confinement(landlock=0, namespaces=True, seccomp=True),
    )
    with pytest.raises(BundleError) as caught:
        load(folder, trusted=False)
    assert caught.value.slug == "trust-needed"
    assert load(folder).limits is None


def test_scores_do_not_depend_on_who_else_is_scored(folder: Path) -> None:
    """A few rows have, to the last bit, the scores that they have among many in whole batches."""
    edit_document(folder, META_NAME, lambda meta: meta["model"]["kwargs"].update(batch_size=16))
    scorer = load(folder)
    everyone = scorer.predict(SAMPLES)
    assert np.array_equal(scorer.predict(SAMPLES[3:6]), everyone[3:6])
    assert scorer.predict(SAMPLES[:0]).shape == (0,)


def test_building_a_network_leaves_torchs_random_numbers_alone(folder: Path) -> None:
    """It seeds them as it likes, as generated models do."""
    import torch

    replace_file(folder, CODE_NAME, (NETWORK_CODE + "\ntorch.manual_seed(1)\n").encode())
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    load(folder).predict(SAMPLES)
    assert torch.equal(torch.rand(3), expected)


def count_one_more(meta: dict[str, Any]) -> None:
    meta["model"]["kwargs"]["pt_model_kwargs"]["num_features"] += 1


def test_a_feature_count_off_by_one_is_refused(folder: Path) -> None:
    """In the samples, and in what the network was built for."""
    assert refused(folder, SAMPLES[:, :3]).slug == "model-input-mismatch"
    edit_document(folder, META_NAME, count_one_more)
    assert refused(folder).slug == "model-input-mismatch"


@pytest.mark.parametrize("change", ["names", "shapes", "bytes"])
def test_weights_of_another_model_are_refused(folder: Path, change: str) -> None:
    """Other tensors, other shapes, or no safetensors at all."""
    from safetensors.numpy import load as load_tensors
    from safetensors.numpy import save

    tensors = load_tensors((folder / TENSORS_NAME).read_bytes())
    name = "layers.0.weight"
    contents = {
        "names": save({**tensors, "layers.9.weight": tensors[name]}),
        "shapes": save({**tensors, name: np.zeros((5, 3), dtype="f4")}),
        "bytes": b"no safetensors",
    }
    replace_file(folder, TENSORS_NAME, contents[change])
    assert refused(folder).slug == "model-input-mismatch"


@pytest.mark.parametrize(
    ("code", "slug"),
    [
        (b"def", "network-failed"),
        (b"import nowhere_at_all", "network-failed"),
        (b"raise SystemExit(0)", "network-failed"),
        (b"model_cls = 3", "network-failed"),
        (NETWORK_CODE.replace("nn.Linear(5, 1)", "nn.Linear(5, 2)").encode(), "model-input-mismatch"),
        (NETWORK_CODE.replace("return self.layers(x)", "return self.layers(x)[:-1]").encode(), None),
        (NETWORK_CODE.replace("return self.layers(x)", "return self.layers(x[:, :2])").encode(), None),
    ],
)
def test_code_that_does_not_do_is_refused(folder: Path, code: bytes, slug: str | None) -> None:
    """It fails by itself, or does not fit weights and samples."""
    replace_file(folder, CODE_NAME, code)
    assert refused(folder).slug == (slug or "model-input-mismatch")
