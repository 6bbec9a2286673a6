"The training notebook from the command line: what it is given is used or refused, with an exit code and one sentence."
import json
import shutil

import pytest
from conftest import ROOT

from brainlab.cli.main import main
from brainlab.training.callbacks import read_metrics
from brainlab.training.checkpoint import checkpoints, latest
from brainlab.training.runs import read_notebook

RUNS = ROOT/"nbs"/"runs"


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    "Run the notebook in smoke mode: exit code and what stderr said"
    for key in ("data", "checkpoints"): monkeypatch.setenv(f"BRAINLAB_{key.upper()}_DIR", str(tmp_path/key))

    def f(notebook="train", **params):
        pairs = [o for k, v in ({"smoke": "true"} | params).items() for o in ("-p", k, str(v))]
        code = main(["run", str(RUNS/f"{notebook}.ipynb"), str(tmp_path/"out.ipynb"), *pairs])
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
    (tmp_path/"settings.ini").write_text("[brainlab]\n")
    (tmp_path/"below").mkdir()
    monkeypatch.chdir(tmp_path/"below")
    code, err = train(source="mine.txt")
    assert code == 1 and "'mine.txt'" in err and str(tmp_path/"mine.txt") in err and "not at the current folder" in err and "data list" in err
    for given in (tmp_path/"mine.txt", "mine.txt"):  # an absolute path, and the folder of settings.ini itself
        code, err = train(source=given)
        assert code == 1 and str(tmp_path/"mine.txt") in err and "current folder" not in err, given
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("given, said", [('{"vocab_size": 100}', "vocab_size is 100"), ("[1]", "expected a JSON object")])
def test_overrides(train, shards, given, said):
    code, err = train(data=shards, overrides=given)
    assert code == 2 and said in err


def test_too_little_text_names_the_parameter(train, tmp_path):
    (tmp_path/"short.txt").write_text("one two three. " * 30)
    code, err = train(source=tmp_path/"short.txt", tokenizer="bytes", length="64")
    assert code == 2 and "Parameter 'length' is 64" in err and "'valid' text has" in err


def test_absent_corpus_of_the_registry(train, tmp_path):
    (tmp_path/"data").mkdir()
    (tmp_path/"data"/"sources.toml").write_text('[mine]\nlanguages = ["en"]\nlicence = "MIT"\nwhat = "tigers"\n')
    code, err = train(source="mine")
    assert code == 1 and "not on this machine" in err and str(tmp_path/"data"/"local"/"mine") in err
    (tmp_path/"data"/"local"/"mine").mkdir(parents=True)
    (tmp_path/"data"/"local"/"mine"/"a.txt").write_text("\n\n".join(f"Once there were {i} tigers." for i in range(300)))
    assert train(source="mine", tokenizer="bytes")[0] == 0


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


def outputs(tmp_path): return [o for c in read_notebook(tmp_path/"out.ipynb").cells if c.cell_type == "code" for o in c.outputs]
def printed(tmp_path): return "".join(o.get("text", "") for o in outputs(tmp_path) if o.get("name") == "stdout")
def shown(tmp_path): return "".join(o.get("data", {}).get("text/plain", "") for o in outputs(tmp_path))


def test_a_finished_run_says_so(train, tmp_path, shards):
    run = dict(data=shards, run_dir=tmp_path/"run")
    assert train(**run)[0] == 0
    assert "finished at step" not in printed(tmp_path) and f"brainlab generate {tmp_path/'run'}" in printed(tmp_path)
    row = read_metrics(tmp_path/"run")[0]
    assert row["lm"] < row["loss"] and f"'first loss': {row['lm']}" in shown(tmp_path)  # without what the exit heads add
    assert train(**run)[0] == 0
    assert "is already finished at step 6" in printed(tmp_path)


def test_other_text_tells_the_way_out(train, tmp_path, shards):
    from brainlab.text.shards import prepare
    (tmp_path/"b.txt").write_text("\n\n".join(f"Now there are {i} bears." for i in range(200)))
    prepare(tmp_path/"b.txt", tmp_path/"b", str(shards/"tokenizer.json"))
    assert train(data=shards, run_dir=tmp_path/"run")[0] == 0
    code, err = train(data=tmp_path/"b", run_dir=tmp_path/"run")
    assert code == 1 and "-p override '[\"data\"]'" in err
    assert not [o for o in err.split() if len(o.strip(",;.")) == 64], "a whole SHA-256"
    assert train(data=tmp_path/"b", run_dir=tmp_path/"run", override='["data"]')[0] == 0


# Night after night

def test_nights(train, tmp_path, capsys):
    "A damaged night does not stop later ones, and a senseless number of nights deletes none"
    nights = tmp_path/"nights"
    run = dict(notebook="nightly", smoke="false", preset="tiny", tokenizer="bytes", minutes="0", steps="2", nights_dir=nights)
    assert train(**run)[0] == 0
    night, = (o for o in nights.iterdir() if o.is_dir())
    for old, damage in (("2001-01-01", "status.json"), ("2001-01-02", "step-000002/model.safetensors")):
        (nights/old/"step-000002").mkdir(parents=True)
        (nights/old/"status.json").write_text('{"state": "finished"}')
        (nights/old/damage).write_text("[]")
    with open(nights/"history.jsonl", "a") as f: f.write('{"night": "2001-01-0\n[]\n')
    code, err = train(**run, keep="-1")
    assert code == 2 and "'keep' is -1" in err and checkpoints(night)
    shutil.move(night, nights/"2001-01-03")
    assert train(**run, keep="2")[0] == 0
    last = json.loads((nights/"history.jsonl").read_text().splitlines()[-1])
    assert last["start"] == "2001-01-03" and (nights/"2001-01-01").is_dir()


# Sprout's tasks

def test_sprout_refuses(train, tmp_path):
    "An unknown task, and a table without the column"
    code, err = train(notebook="train_sprout", task="clasify")
    assert code == 2 and "Unknown task 'clasify'" in err and "did you mean 'classify'" in err
    (tmp_path/"rated.tsv").write_text("review\tlabel\ngood\t1\nbad\t0\n")
    code, err = train(notebook="train_sprout", task="classify", source=tmp_path/"rated.tsv")
    assert code == 2 and "has no column 'text'; it has review, label" in err and "-p text_field" in err
    (tmp_path/"alike.tsv").write_text("text\tlabel\ngood\t1\nbetter\t1\nbest\t1\n")
    code, err = train(notebook="train_sprout", task="classify", source=tmp_path/"alike.tsv")
    assert code == 2 and "nothing to tell apart" in err


def rated(folder):
    "A table of labelled texts"
    (folder/"rated.tsv").write_text("review\tlabel\n" + "".join(f"{word} 영화 {i}\t{label}\n" for i in range(30) for word, label in (("좋은", 1), ("나쁜", 0))))
    return dict(source=folder/"rated.tsv", text_field="review", tokenizer="bytes")


def asked(folder):
    "A file of questions"
    rows = [(f"{i}번 방에 고양이가 있다.", f"{i}번 방에 있는 것은?", "고양이") for i in range(40)]
    data = [dict(title=c, paragraphs=[dict(context=c, qas=[dict(question=q, answers=[dict(text=a, answer_start=c.index(a))])])]) for c, q, a in rows]
    (folder/"asked.json").write_text(json.dumps(dict(data=data)))
    return dict(source=folder/"asked.json", length="80", smoke="false", minutes="0", steps="6", batch="2")


def scored(folder, task, known):
    "The score of a run, whose model opens with its tokenizer"
    import brainlab
    score, net = json.loads((folder/"score.json").read_text())["score"], brainlab.load(folder)
    assert score["task"] == task and score["n"] > 0 and 0 <= score[known] <= 1
    assert net.tokenizer.vocab_size == net.config.vocab_size and getattr(net.config, "task", "write") == task


def test_sprout_from_classes_to_answers(train, tmp_path):
    "A run from files to a score; the same command goes on where it stopped; its encoder then learns another task"
    run = dict(notebook="train_sprout", task="classify", run_dir=tmp_path/"classes", **rated(tmp_path))
    assert train(**run)[0] == 0
    scored(tmp_path/"classes", "classify", "accuracy")
    assert train(**run, steps="8", override='["training"]')[0] == 0
    assert [r["step"] for r in read_metrics(tmp_path/"classes") if "loss" in r] == list(range(1, 9))
    assert train(notebook="train_sprout", task="answer", run_dir=tmp_path/"answers", start=tmp_path/"classes", **asked(tmp_path))[0] == 0
    assert "fresh: " in printed(tmp_path) and "embed" not in printed(tmp_path)
    scored(tmp_path/"answers", "answer", "f1")


def test_sprout_writes(train, tmp_path):
    assert train(notebook="train_sprout", task="write", run_dir=tmp_path/"run", tokenizer="bytes")[0] == 0
    scored(tmp_path/"run", "write", "accuracy")
