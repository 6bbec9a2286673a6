"The training notebook from the command line: what it is given is used or refused, with an exit code and one sentence."
import json

import pytest
from conftest import ROOT

from brainlab.cli.main import main
from brainlab.training.callbacks import read_metrics
from brainlab.training.checkpoint import latest

TRAIN = ROOT/"nbs"/"runs"/"train.ipynb"


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    "Run the notebook in smoke mode: exit code and what stderr said"
    for key in ("data", "checkpoints"): monkeypatch.setenv(f"BRAINLAB_{key.upper()}_DIR", str(tmp_path/key))

    def f(**params):
        pairs = [o for k, v in ({"smoke": "true"} | params).items() for o in ("-p", k, str(v))]
        code = main(["run", str(TRAIN), str(tmp_path/"out.ipynb"), *pairs])
        err = [o for o in capsys.readouterr().err.splitlines() if o.startswith("brainlab: ")]
        assert len(err) == (code != 0), err
        return code, " ".join(err)
    return f


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A model folder whose tokenizer has no merges"
    import brainlab
    from brainlab.text.tokenizer import BrainTokenizer
    net = brainlab.build("braingpt", preset="tiny", vocab_size=(tok := BrainTokenizer.bytes_only()).vocab_size)
    net.tokenizer = tok
    net.save_pretrained(home := tmp_path_factory.mktemp("model")/"m")
    return home


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    "Shards of a tokenizer of their own"
    from brainlab.text.shards import prepare
    home = tmp_path_factory.mktemp("shards")
    (home/"a.txt").write_text("\n\n".join(f"Once there were {i} tigers." for i in range(200)))
    prepare(home/"a.txt", home/"out", "train:300")
    return home/"out"


# Wrong names and wrong pairs

def test_shards_of_another_tokenizer(train, model, shards):
    code, err = train(data=shards, start=model)
    assert code == 1 and "was made with tokenizer" in err and "prepare the data with the model's tokenizer" in err


def test_unknown_model(train, shards):
    code, err = train(data=shards, model="braingtp")
    assert code == 2 and "Unknown model 'braingtp'" in err and "did you mean 'braingpt'" in err


def test_unknown_preset(train, shards):
    code, err = train(data=shards, preset="timy", smoke="false")
    assert code == 2 and "Unknown preset 'timy'" in err and "did you mean 'tiny'" in err


@pytest.mark.parametrize("given", [{"preset": "small"}, {"without": '["columns"]'}], ids=lambda o: next(iter(o)))
def test_start_decides_the_model(train, model, given):
    code, err = train(start=model, **given)
    assert code == 2 and f"Parameter '{next(iter(given))}'" in err and "'start' is given too" in err


def test_missing_source_names_both_places(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = train(source="mine.txt")
    assert code == 1 and "'mine.txt'" in err and str(tmp_path/"mine.txt") in err and "current folder" in err


# What it is given is used

def test_run_dir_follows_the_settings(train, tmp_path, shards):
    assert train(data=shards, smoke="false", minutes="0", steps="2", batch="2", length="16", prompts="[]")[0] == 0
    assert latest(tmp_path/"checkpoints"/"train").name == "step-000002"
    card = json.loads((tmp_path/"checkpoints"/"train"/"run.json").read_text())
    assert card["loader"] == {"seed": 42, "rows": 2, "length": 16, "split": "train", "world": 1}
    assert card["parameters"]["override"] == [] and card["parameters"]["batch"] == 2


def test_two_sources_of_one_name(train, tmp_path):
    for folder in "ab":
        (tmp_path/folder).mkdir()
        (tmp_path/folder/"input.txt").write_text("\n\n".join(f"{folder} has {i} tigers." for i in range(300)))
        assert train(source=tmp_path/folder/"input.txt", tokenizer="bytes")[0] == 0
    folders = [o for o in (tmp_path/"data"/"prepared").iterdir() if o.is_dir()]
    assert len(folders) == 2 and all(o.name.startswith("input-") for o in folders)


def test_override(train, tmp_path, shards):
    run = dict(data=shards, run_dir=tmp_path/"run")
    assert train(**run)[0] == 0
    code, err = train(**run, lr="0.002")
    assert code == 1 and "training lr = 0.001, this run has 0.002" in err and "override=['training']" in err
    assert train(**run, lr="0.002", steps="8", override='["training"]')[0] == 0
    assert read_metrics(tmp_path/"run")[-1]["step"] == 8
    code, err = train(**run, override='["trainings"]')
    assert code == 2 and "did you mean 'training'" in err
