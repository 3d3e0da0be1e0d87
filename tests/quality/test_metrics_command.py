import json

import pytest
from toy_metrics import night
from typer.testing import CliRunner

from nightlab.cli import app

RUNS = {"runs/A": night(range(1, 6)), "runs/B": night(range(3, 9), noise=1.2)}


@pytest.fixture(autouse=True)
def _from_memory(monkeypatch):
    monkeypatch.setattr("nightlab.cli.metrics._read", lambda _, name: RUNS[name])


def call(*arguments):
    result = CliRunner().invoke(app, ["metrics", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def records(*arguments):
    code, out, _ = call(*arguments, "--json")
    return code, {record["metric"]: record for record in json.loads(out)}


def test_show_prints_every_metric():
    code, shown = records("show", ".", "runs/A")
    assert code == 0
    assert shown["association.n_objects"]["verdict"] == "none"
    assert shown["difference.noise_ratio"]["verdict"] == "pass"
    assert "difference.noise_ratio" in call("show", ".", "runs/A")[1]
    assert json.loads(call("show", ".", "runs/A", "--by-band", "--json")[1])[0]["band"] == "g"


def test_check_exits_with_4_when_a_target_is_missed_and_lists_what_nothing_measured():
    code, table = records("check", ".", "runs/A")
    assert code == 0
    assert table["difference.noise_ratio"]["verdict"] == "pass"
    assert table["difference.kernel_sum"]["verdict"] == "not measured"
    code, table = records("check", ".", "runs/B")
    assert (code, table["difference.noise_ratio"]["failed"]) == (4, 6)


def test_the_level_and_specs_of_ones_own_decide(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("single_frame.n_sources: {sense: higher, minimum: 1, design: 50, stretch: 1000}\n")
    assert call("check", ".", "runs/A", "--specs", mine)[0] == 0
    code, table = records("check", ".", "runs/A", "--specs", mine, "--level", "stretch")
    assert (code, table["single_frame.n_sources"]["target"]) == (4, ">= 1000")
    assert call("check", ".", "runs/A", "--specs", tmp_path / "none.yaml")[0] == 3
    mine.write_text("single_frame.n_sources: {sense: sideways}\n")
    code, _, err = call("check", ".", "runs/A", "--specs", mine)
    assert (code, "sense is 'sideways'" in err) == (2, True)


def test_two_runs_are_compared():
    code, table = records("show", ".", "runs/B", "--against", "runs/A")
    assert code == 0
    assert table["difference.noise_ratio"]["change"] == "worse"
    assert table["difference.noise_ratio"]["n_both"] == 3


def test_export_writes_what_the_name_says(tmp_path):
    path = tmp_path / "m.csv"
    assert call("export", ".", "runs/A", "runs/B", "-o", path) == (0, f"{path}\n", "")
    lines = path.read_text().splitlines()
    assert {line.partition(",")[0] for line in lines[1:]} == {"runs/A", "runs/B"}
    code, _, err = call("export", ".", "runs/A", "-o", path)
    assert (code, "exists already" in err) == (2, True)
    assert call("export", ".", "runs/A", "runs/B", "-o", tmp_path / "m.json")[0] == 2
