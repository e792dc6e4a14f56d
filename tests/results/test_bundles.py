"""Bundles on demand: exported once in a process of their own, kept by content, handed out file by file or zipped."""

from __future__ import annotations

import asyncio
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results import exporter as module
from rdagent_sota_patch.results.assets import Asset
from rdagent_sota_patch.results.bundles import Bundles, ServedBundle
from rdagent_sota_patch.results.describing import bundle_stages
from rdagent_sota_patch.results.exporter import BundleRequest, Exporter
from rdagent_sota_patch.results.sota import Spool, describe_sota
from rdagent_sota_patch.results.views import RunView
from rdagent_sota_patch.sessions.snapshots import read_session
from tests.export.made_run import write_workspace
from tests.results.log_root import Project, run_of_factors, write_run
from tests.sessions.generated_log import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One run of two accepted loops, whose workspace can be exported."""
    made = Project(tmp_path_factory.mktemp("bundles"))
    made.workspace.mkdir(parents=True)
    write_workspace(made.workspace)
    first = run_of_factors("ZMom")
    last = run_of_factors("GapA", "Extra", place=made.workspace, based_on=(first,))
    write_run(made.log / "mined", [(first, True), (last, True)])
    return made


def view(project: Project, folder: Path) -> RunView:
    session = read_session(project.log / "mined")
    return RunView(session, describe_sota(session, None, (), Spool(folder, 1 << 20)), 0.0)


def bundles(tmp_path: Path, limit: int = 1 << 30) -> Bundles:
    folder = tmp_path / "bundles"
    folder.mkdir(exist_ok=True)
    return Bundles(folder, limit, Exporter((), None))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[BundleRequest]:
    """What was exported, in order."""
    done: list[BundleRequest] = []
    export = Exporter.export

    def count(self: Exporter, request: BundleRequest, folder: Path) -> None:
        done.append(request)
        export(self, request, folder)

    monkeypatch.setattr(Exporter, "export", count)
    return done


def test_a_bundle_is_made_once_and_kept(
    project: Project, tmp_path: Path, exports: list[BundleRequest]
) -> None:
    """For all who ask, for a server that is started again, and until what it is made of changes."""
    run = view(project, tmp_path)

    async def ask(served: Bundles, run: RunView) -> list[ServedBundle]:
        return await asyncio.gather(*(served.get(BundleRequest(run, "factor", False)) for _ in range(10)))

    first = asyncio.run(ask(bundles(tmp_path), run))
    assert len({each.folder for each in first}) == 1
    assert open_bundle(first[0].folder).manifest == first[0].manifest
    assert not first[0].manifest.files.keys() & {"replay/input.parquet"}
    again = asyncio.run(ask(bundles(tmp_path), view(project, tmp_path)))
    assert again[0].folder == first[0].folder
    assert len(exports) == 1


def test_an_export_runs_nothing_of_the_folder_that_the_server_was_started_in(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file there that is called like a module of Python's, a log's or the user's, is not imported."""
    (tmp_path / "started").mkdir()
    for name in ("json", "signal", "sitecustomize"):
        (tmp_path / "started" / f"{name}.py").write_text("open('ran', 'w').close(); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path / "started")
    request = BundleRequest(view(project, tmp_path), "factor", False)
    assert asyncio.run(bundles(tmp_path).get(request)).manifest.task_id == "mined"
    assert not Path("ran").exists()


def test_the_evidence_is_in_a_bundle_of_its_own(project: Project, tmp_path: Path) -> None:
    """Weights and code are the same bytes in both, so that a client need not fetch them again."""
    run = view(project, tmp_path)

    async def ask() -> tuple[ServedBundle, ServedBundle]:
        served = bundles(tmp_path)
        return (
            await served.get(BundleRequest(run, "factor", False)),
            await served.get(BundleRequest(run, "factor", True)),
        )

    bare, proven = asyncio.run(ask())
    assert "replay/input.parquet" in proven.manifest.files
    same = [name for name in bare.manifest.files if name.startswith(("model.pkl", "model.txt", "factors/"))]
    assert len(same) == 5
    assert [bare.manifest.files[name] for name in same] == [proven.manifest.files[name] for name in same]
    assert run.sota is not None and run.sota.weights.asset is not None
    assert bare.manifest.files["model.pkl"].sha256 == run.sota.weights.asset.sha256


def test_each_file_is_an_asset_by_its_path(project: Project, tmp_path: Path) -> None:
    """The manifest itself, too; and nothing that it does not list, though it lies in the folder."""

    async def ask() -> ServedBundle:
        return await bundles(tmp_path).get(BundleRequest(view(project, tmp_path), "factor", False))

    bundle = asyncio.run(ask())
    assert content(bundle.find_asset("manifest.json")) == (bundle.folder / "manifest.json").read_bytes()
    for name, listed in bundle.manifest.files.items():
        asset = bundle.find_asset(name)
        assert asset is not None
        assert (asset.size, asset.sha256) == (listed.size, listed.sha256)
        assert content(asset) == (bundle.folder / name).read_bytes()
    (bundle.folder / "more.txt").write_text("not listed")
    for key in ("more.txt", "../x", "", ".", "factors", "/etc/passwd"):
        assert bundle.find_asset(key) is None


def content(asset: Asset | None) -> bytes:
    assert asset is not None
    if asset.content is not None:
        return asset.content
    assert asset.path is not None
    return asset.path.read_bytes()


def test_the_zip_is_the_bundle(project: Project, tmp_path: Path) -> None:
    """Unpacked, it is one folder that opens as a bundle; zipped again, it has the same bytes."""

    async def ask(folder: Path) -> Asset:
        folder.mkdir()
        return await bundles(folder).get_zip(BundleRequest(view(project, tmp_path), "factor", False))

    asset = asyncio.run(ask(tmp_path / "once"))
    assert (asset.key, asset.media_type) == ("mined-factor.zip", "application/zip")
    assert asset.path is not None
    with zipfile.ZipFile(asset.path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unpacked")
    opened = open_bundle(tmp_path / "unpacked" / "mined-factor")
    assert opened.manifest.task_id == "mined"


def test_a_damaged_bundle_in_the_cache_is_made_anew(
    project: Project, tmp_path: Path, exports: list[BundleRequest]
) -> None:
    """The disk may have lost some of it since."""

    async def ask() -> ServedBundle:
        return await bundles(tmp_path).get(BundleRequest(view(project, tmp_path), "factor", False))

    damaged = asyncio.run(ask()).folder / "model.txt"
    damaged.write_text("tree")
    assert open_bundle(asyncio.run(ask()).folder)
    assert damaged.read_text() != "tree"
    assert len(exports) == 2


def test_two_servers_share_a_cache(project: Project, tmp_path: Path, exports: list[BundleRequest]) -> None:
    """Asked for the same at the same time, each makes it, and both have what was put in place first."""
    views = [view(project, tmp_path), view(project, tmp_path)]

    async def ask() -> list[ServedBundle]:
        requests = [BundleRequest(run, "factor", False) for run in views]
        return await asyncio.gather(*(bundles(tmp_path).get(request) for request in requests))

    first, second = asyncio.run(ask())
    assert first.folder == second.folder
    assert open_bundle(first.folder).manifest == first.manifest == second.manifest
    assert len(exports) == 2
    assert [path.name for path in first.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_the_cache_stays_within_its_limit(project: Project, tmp_path: Path) -> None:
    """What was not used for longest goes when another one is made."""
    run = view(project, tmp_path)

    async def ask() -> tuple[Path, Path]:
        served = bundles(tmp_path, limit=1)
        first = await served.get(BundleRequest(run, "factor", False))
        second = await served.get(BundleRequest(run, "factor", True))
        assert not first.folder.exists()
        # Asked for again, it is made again.
        assert (await served.get(BundleRequest(run, "factor", False))).folder.is_dir()
        return first.folder, second.folder

    first, second = asyncio.run(ask())
    assert first.is_dir() and not second.exists()


def test_a_zip_whose_bundle_had_to_go_is_made_all_the_same(project: Project, tmp_path: Path) -> None:
    """Another export may have made room for itself while this waited for its turn."""

    async def ask() -> Asset:
        served = bundles(tmp_path)
        request = BundleRequest(view(project, tmp_path), "factor", False)
        shutil.rmtree((await served.get(request)).folder)
        bundle = next(iter(served._ready.values()))
        return served._zip(request, bundle)

    assert zipfile.is_zipfile(str(asyncio.run(ask()).path))


def test_why_there_is_no_bundle_is_told(
    project: Project, tmp_path: Path, exports: list[BundleRequest]
) -> None:
    """The export's own problem; and it is not tried over and over for all who ask meanwhile."""

    async def ask() -> None:
        served = bundles(tmp_path)
        run = view(project, tmp_path)
        with pytest.raises(SotaError) as caught:
            await served.get(BundleRequest(run, "model", False))
        assert caught.value.slug == "no-accepted-model"
        (project.workspace / "combined_factors_df.parquet").rename(tmp_path / "table")
        try:
            for _ in range(3):
                with pytest.raises(SotaError) as caught:
                    await served.get(BundleRequest(run, "factor", False))
                assert caught.value.slug == "model-table-missing"
        finally:
            (tmp_path / "table").rename(project.workspace / "combined_factors_df.parquet")

    asyncio.run(ask())
    assert len(exports) == 1


def test_an_export_that_takes_too_long_is_ended(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every process that it started, and nothing of it stays in the cache."""
    monkeypatch.setattr(module, "_LONGEST_EXPORT", 0.05)

    async def ask() -> None:
        with pytest.raises(ApiError) as caught:
            await bundles(tmp_path).get(BundleRequest(view(project, tmp_path), "factor", False))
        assert caught.value.slug == "export-took-too-long"

    asyncio.run(ask())
    assert list((tmp_path / "bundles").iterdir()) == []


def test_stages_are_those_with_an_accepted_experiment(project: Project, tmp_path: Path) -> None:
    """Of the run's own."""
    session = view(project, tmp_path).session
    assert bundle_stages(session) == ("factor",)
    assert bundle_stages(replace(session, experiments=())) == ()
