"The demo from end to end, small: prepare, train twice, generate, measure, report; and once more, which must lose nothing."
import json
import re

import pytest

from brainlab.cli.main import main


@pytest.fixture(scope="module")
def demo(tmp_path_factory, root):
    "A finished smoke demo: its folder and what it printed"
    import contextlib
    import io
    import os
    home, said, was = tmp_path_factory.mktemp("demo")/"demo", io.StringIO(), os.getcwd()
    os.chdir(root)
    try:
        with contextlib.redirect_stdout(said): code = main(["demo", "--smoke", "--out", str(home)])
    finally: os.chdir(was)
    assert code == 0
    return home, said.getvalue()


def test_both_models_were_trained(demo):
    from brainlab.training.callbacks import read_metrics
    for name in ("sparse", "dense"):
        assert json.loads((demo[0]/name/"status.json").read_text())["state"] == "finished"
        assert any("val_bpb" in m for m in read_metrics(demo[0]/name))


def test_they_differ_in_the_mechanism_only(demo):
    from brainlab.core.files import read_json
    a, b = (read_json(next((demo[0]/n).glob("step-*/config.json"))) for n in ("sparse", "dense"))
    same = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd", "n_cortical_columns", "column_size")
    assert [a["config"][k] for k in same] == [b["config"][k] for k in same]
    assert a["config"]["columns"] and not b["config"]["columns"]


def test_table(demo):
    rows = [line for line in demo[1].splitlines() if re.match(r"(sparse|dense) +[\d,]+ ", line)]
    assert len(rows) == 2
    macs = [int(r.split()[5].replace(",", "")) for r in rows]
    assert macs[0] < macs[1], "the sparse model did not execute less"
    assert "NOT faster" in demo[1] or re.search(r"\d\.\d\dx as fast", demo[1])


def test_korean_and_english_text(demo):
    assert demo[1].count("어느 봄날") >= 2 and demo[1].count("It was a spring") >= 2


def test_report(demo):
    page = (demo[0]/"report.html").read_text(encoding="utf-8")
    assert "<html" in page and "어느 봄날" in page and "sparse" in page and "plotly" in page.lower()
    assert not re.search(r"<script[^>]+src=[\"']https?:", page), "the report must open without a network"


def test_generate_from_the_demo(demo, capsys):
    assert main(["generate", str(demo[0]/"sparse"), "어느 봄날", "--max-new-tokens", "4", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("어느 봄날")


def test_again_keeps_what_is_there(demo, root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    weights = sorted(p.read_bytes() for p in demo[0].rglob("model.safetensors"))
    assert main(["demo", "--smoke", "--out", str(demo[0])]) == 0
    assert sorted(p.read_bytes() for p in demo[0].rglob("model.safetensors")) == weights


def test_outside_a_checkout(tmp_path, monkeypatch, capsys):
    "An installed package has no notebooks: one sentence says so"
    import brainlab
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(brainlab, "__file__", str(tmp_path/"site-packages"/"brainlab"/"__init__.py"))
    assert main(["demo", "--smoke", "--out", str(tmp_path/"d")]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "clone the repository" in err and not (tmp_path/"d").exists()


@pytest.mark.parametrize("argv", [["--minutes", "0"], ["--minutes", "-3"], ["--minutes", "nan"], ["--seed", "x"]])
def test_wrong_options(argv, capsys):
    assert main(["demo", *argv]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_another_seed_moves_the_old_demo_aside(demo, root, tmp_path, monkeypatch, capsys):
    "The old folder keeps everything under a new name, and the new demo has its place"
    import shutil

    from brainlab.cli import demo as verb
    home, seen = shutil.copytree(demo[0], tmp_path/"demo"), []
    monkeypatch.chdir(root)
    monkeypatch.setattr(verb, "work", lambda plan, root: seen.append((plan.seed, sorted(o.name for o in plan.out.iterdir()))))
    weights = sorted(p.read_bytes() for p in home.rglob("model.safetensors"))
    assert main(["demo", "--smoke", "--out", str(home)]) == 0 and "moved" not in capsys.readouterr().out
    assert main(["demo", "--smoke", "--seed", "7", "--out", str(home)]) == 0
    moved, = tmp_path.glob("demo-*")
    assert str(moved) in capsys.readouterr().out
    assert sorted(p.read_bytes() for p in moved.rglob("model.safetensors")) == weights
    assert seen[1] == (7, ["demo.json"])


def test_a_folder_that_is_no_demo_is_left_alone(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (tmp_path/"d").mkdir()
    (tmp_path/"d"/"thesis.tex").write_text("mine")
    assert main(["demo", "--smoke", "--out", str(tmp_path/"d")]) == 1
    err = capsys.readouterr().err
    assert "thesis.tex" in err and len(err.splitlines()) == 1 and [o.name for o in (tmp_path/"d").iterdir()] == ["thesis.tex"]
