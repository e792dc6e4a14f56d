"""What can be downloaded, and why the rest cannot."""

from __future__ import annotations

from dataclasses import replace

from rdagent_sota_patch.server.downloads import asset_address, list_downloads, page_address, sync_command
from tests.server.examples import long_run, make_anchor, make_run, model_run


def test_a_factor_run_has_everything() -> None:
    """Bundle with and without evidence, weights with their size, order and description of the model."""
    run = long_run(3)
    downloads = list_downloads(run.manifest, run.anchor)
    task = f"/tasks/{run.manifest.task_id}"
    assert [download.address for download in downloads] == [
        f"{task}/bundle?stage=factor",
        f"{task}/bundle?stage=factor&replay=false",
        f"{task}/asset_bytes?key=model.pkl",
        f"{task}/asset_bytes?key=factor_order.json",
        f"{task}/asset_bytes?key=model_meta.json",
    ]
    assert downloads[2].note == "weights of the model, 123 kB"


def test_what_cannot_be_had_tells_why() -> None:
    """Weights that are gone take the bundle with them; a recorder that is gone leaves weights that a log holds."""
    run = long_run(3)
    sota = run.summary.sota
    no_weights = make_anchor(
        "t", sota, resolved_model_weight_key=None, resolved_model_weight_key_error="They are gone."
    )
    found = {download.label: download for download in list_downloads(run.manifest, no_weights)}
    assert found["model.pkl"].note == found["Bundle"].note == "They are gone."
    assert found["model.pkl"].address is found["Bundle"].address is None
    no_meta = make_anchor(
        "t", sota, resolved_model_meta_key=None, resolved_model_meta_key_error="No recorder."
    )
    found = {download.label: download for download in list_downloads(run.manifest, no_meta)}
    assert found["model.pkl"].address is not None
    assert found["Bundle"].note == found["model_meta.json"].note == found["factor_order.json"].note
    assert found["Bundle"].note == "No recorder."


def test_a_run_without_accepted_factors() -> None:
    """Every button is there, none can be used, and each says why."""
    run = make_run(())
    downloads = list_downloads(run.manifest, run.anchor)
    assert downloads
    assert {download.address for download in downloads} == {None}
    assert {download.note for download in downloads} == {"The run accepted no factor experiment of its own."}


def test_a_model_run_has_its_models_bundle() -> None:
    """Nothing of a SOTA is offered; without an accepted model the bundle says so."""
    run = model_run()
    (download,) = list_downloads(run.manifest, run.anchor)
    assert download.address == f"/tasks/{run.manifest.task_id}/bundle?stage=model"
    none = replace(run, manifest=run.manifest.model_copy(update={"bundle_stages": ()}))
    (download,) = list_downloads(none.manifest, none.anchor)
    assert (download.address, download.note) == (None, "No model experiment was accepted.")


def test_ids_and_keys_stay_one_piece() -> None:
    """What an id or key holds never becomes a path, a parameter, or another word of the command."""
    assert page_address("a/../b?c#d") == "/runs/a%2F..%2Fb%3Fc%23d"
    assert (
        asset_address("a b", "x&replay=true/é") == "/tasks/a%20b/asset_bytes?key=x%26replay%3Dtrue%2F%C3%A9"
    )
    assert (
        sync_command("a; rm -rf b", None) == "rdagent-sota sync --api ADDRESS --task 'a; rm -rf b' --out DIR"
    )
    known = sync_command("run", "http://127.0.0.1:8900")
    assert known == "rdagent-sota sync --api http://127.0.0.1:8900 --task run --out DIR"
