"""``rdagent-sota predict`` from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from rdagent_sota_patch.cli import predict as predict_module
from rdagent_sota_patch.cli.bundle_commands import find_market_data, predict
from tests.bundle.made import ORDER, make_bundle
from tests.scoring.made_market import MadeMarket, make_market

app = typer.Typer()
app.command()(predict)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    return make_market(tmp_path_factory.mktemp("market"))


def arguments(bundle: Path, made: MadeMarket, day: str, *more: str) -> list[str]:
    files = made.files
    return [str(bundle), "--date", day, "--data", str(files.data), "--qlib-dir", str(files.qlib_dir), *more]


def test_writes_scores_page_and_json(tmp_path: Path, made: MadeMarket) -> None:
    """A TimeSeries model, confined: one object on stdout, the file and the page beside it."""
    bundle = make_bundle(tmp_path / "bundle", "time_series").folder
    out, page = tmp_path / "scores.parquet", tmp_path / "page.html"
    more = ("--top", "7", "--out", str(out), "--html", str(page), "--explain", "--json")
    result = CliRunner().invoke(app, arguments(bundle, made, "2020-10-20", *more))
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert (plain["day"], plain["scored"], len(plain["top"])) == ("2020-10-20", 51, 7)
    assert (plain["left_out"], plain["incomplete"]) == ([], {})
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["instrument", "score", "rank", *ORDER]
    assert frame.to_dict(orient="records") == plain["top"]
    assert "Scores of 2020-10-20" in page.read_text(encoding="utf-8")


def test_a_day_that_is_there_in_part_is_told_with_the_list(tmp_path: Path, made: MadeMarket) -> None:
    """On stdout above the best stocks, in JSON and on the page."""
    assert made.files.data is not None
    frame = pd.read_hdf(made.files.data, key="data")
    stocks, days = (frame.index.get_level_values(name) for name in ("instrument", "datetime"))
    kept = (days < days.max()) | (stocks <= "SH600022")
    frame[kept].to_hdf(tmp_path / "daily_pv.h5", key="data")
    part = replace(made, files=replace(made.files, data=tmp_path / "daily_pv.h5"))
    bundle, page = make_bundle(tmp_path / "bundle").folder, tmp_path / "page.html"
    day = f"{days.max():%Y-%m-%d}"
    told = f"trades of 23 of the market's 51 stocks on {day}, and of 51 on the trading day before"
    result = CliRunner().invoke(app, arguments(bundle, part, day, "--top", "3", "--html", str(page)))
    assert result.exit_code == 0, result.output
    assert told in result.stdout and told not in result.stderr
    assert told in unescape(page.read_text(encoding="utf-8"))
    plain = json.loads(CliRunner().invoke(app, arguments(bundle, part, day, "--json")).stdout)
    assert plain["notices"][0]["slug"] == "market-day-partial"
    assert (plain["scored"], len(plain["left_out"])) == (23, 28)


@pytest.mark.parametrize(
    ("day", "more", "slug"),
    [
        ("2021-10-20", (), "market-data-too-short"),
        ("2020-10-20", ("--out", "scores.xlsx"), "unknown-format"),
        ("2020-10-20", ("--key-file", "nowhere"), "bad-key-file"),
    ],
)
def test_a_problem_leaves_with_1(
    tmp_path: Path, made: MadeMarket, day: str, more: tuple[str, ...], slug: str
) -> None:
    """The slug on stderr, nothing written."""
    bundle = make_bundle(tmp_path / "bundle").folder
    result = CliRunner().invoke(app, arguments(bundle, made, day, *more))
    assert result.exit_code == 1
    assert f"[{slug}]" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [bundle]


def test_market_data_is_rdagents_own_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that its factor code reads, where the settings or RD-Agent's default put it; no place is guessed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACTOR_CoSTEER_DATA_FOLDER", raising=False)
    assert find_market_data() is None
    for folder in ("git_ignore_folder/factor_implementation_source_data", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "daily_pv.h5").touch()
    assert find_market_data() == Path("git_ignore_folder/factor_implementation_source_data")
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", "elsewhere")
    assert find_market_data() == Path("elsewhere")


@pytest.mark.parametrize("day", ["tomorrow", "2020-13-01", "2020-10-30..2020-10-29", "2020-10-1", "a..b..c"])
def test_what_is_no_day_is_bad_usage(tmp_path: Path, made: MadeMarket, day: str) -> None:
    """Exit code 2, before the bundle is looked at."""
    result = CliRunner().invoke(app, arguments(tmp_path / "nowhere", made, day))
    assert result.exit_code == 2
    assert "--date" in result.stderr


def test_a_range_is_one_file_or_one_for_each_day(tmp_path: Path, made: MadeMarket) -> None:
    """Each trading day's list is what that day alone gives; a weekend in the range is not a day of it."""
    bundle = make_bundle(tmp_path / "bundle").folder
    one, many = tmp_path / "scores.csv", tmp_path / "scores"
    span = ("2020-11-12..2020-11-15", "2020-11-12..latest", "20201112:20201113")
    refused = CliRunner().invoke(app, arguments(bundle, made, span[0], "--out", str(one)))
    assert refused.exit_code == 1 and "[market-data-too-short]" in refused.stderr
    assert "2020-11-13" in refused.stderr and not one.exists()
    for asked, target in ((span[1], one), (span[2], many)):
        result = CliRunner().invoke(app, arguments(bundle, made, asked, "--top", "3", "--out", str(target)))
        assert result.exit_code == 0, result.output
    frame = pd.read_csv(one)
    assert list(frame.columns) == ["date", "instrument", "score", "rank"]
    assert frame["date"].tolist() == ["2020-11-12"] * 3 + ["2020-11-13"] * 3
    assert sorted(path.name for path in many.iterdir()) == ["2020-11-12.csv", "2020-11-13.csv"]
    for day, rows in frame.groupby("date"):
        alone = pd.read_csv(many / f"{day}.csv")
        pd.testing.assert_frame_equal(rows.drop(columns="date").reset_index(drop=True), alone)
    plain = json.loads(CliRunner().invoke(app, arguments(bundle, made, "latest", "--json")).stdout)
    assert plain["day"] == "2020-11-13"
    assert [row["instrument"] for row in plain["top"]][:3] == alone["instrument"].tolist()


@pytest.mark.parametrize("day", ["latest", "2020-10-19..2020-10-20"])
def test_files_are_written_though_the_reader_of_the_lines_is_gone(
    tmp_path: Path, made: MadeMarket, monkeypatch: pytest.MonkeyPatch, day: str
) -> None:
    """As with `| head -1`."""

    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(predict_module, "_show", broken)
    bundle, target, page = make_bundle(tmp_path / "bundle").folder, tmp_path / "o.csv", tmp_path / "o.html"
    more = ("--out", str(target), "--html", str(page))
    assert CliRunner().invoke(app, arguments(bundle, made, day, *more)).exit_code == 1
    assert len(pd.read_csv(target)) >= 51
    assert page.is_file()


def test_names_and_the_change_in_rank(tmp_path: Path, made: MadeMarket) -> None:
    """Names go to the list, the file and the page; page and list compare with the day before as it is scored alone."""
    bundle = make_bundle(tmp_path / "bundle").folder
    names, page, out = tmp_path / "names.csv", tmp_path / "page.html", tmp_path / "scores.csv"
    names.write_text(
        "instrument,name,industry\n"
        + "".join(f"SH6000{number:02d},公司{number},<b>银行</b>\n" for number in range(40)),
        encoding="utf-8-sig",
    )
    day = arguments(bundle, made, "2020-10-30", "--names", str(names), "--html", str(page), "--out", str(out))
    result = CliRunner().invoke(app, day)
    assert result.exit_code == 0, result.output
    ranks = {}
    for each in ("2020-10-29", "2020-10-30"):
        plain = json.loads(CliRunner().invoke(app, arguments(bundle, made, each, "--json")).stdout)
        ranks[each] = {row["instrument"]: row["rank"] for row in plain["top"]}
    best = min(ranks["2020-10-30"], key=ranks["2020-10-30"].__getitem__)
    change = ranks["2020-10-29"][best] - 1
    written = page.read_text(encoding="utf-8")
    assert "since 2020-10-29" in written and "since 2020-10-29" in result.stdout
    assert f'<td class="number">{f"{change:+d}" if change else "="}</td>' in written
    frame = pd.read_csv(out)
    assert list(frame.columns) == ["instrument", "name", "industry", "score", "rank"]
    named = frame[frame["name"].notna()]
    assert all(
        name == f"公司{int(code[2:]) - 600000}"
        for code, name in zip(named["instrument"], named["name"], strict=True)
    )
    assert "&lt;b&gt;银行" in written and "<b>银行" not in written
    assert "█" * 10 in result.stdout


@pytest.mark.parametrize(
    "content",
    [
        b"instrument\nSH600000\n",
        "instrument,name\nSH600000,公司\n".encode("gbk"),
        b"instrument,name\na,b\na,c\n",
    ],
)
def test_a_bad_file_of_names_is_told(tmp_path: Path, made: MadeMarket, content: bytes) -> None:
    """Without the column, in another encoding, or with a stock twice: nothing is guessed."""
    names = tmp_path / "names.csv"
    names.write_bytes(content)
    bundle = make_bundle(tmp_path / "bundle").folder
    result = CliRunner().invoke(app, arguments(bundle, made, "latest", "--names", str(names)))
    assert result.exit_code == 1 and "[bad-names-file]" in result.stderr
