"The command line: every wrong input gets one sentence on stderr and an exit code, and nothing is lost."
import os
import subprocess
import sys

import pytest

from brainlab.cli.main import main


@pytest.fixture
def said(capsys):
    "Run the command line in this process: exit code and the one line on stderr"
    def f(*argv):
        code = main([str(a) for a in argv])
        err = capsys.readouterr().err
        assert code != 0, f"{argv} was accepted"
        assert len(err.splitlines()) == 1 and err.startswith("brainlab: "), err
        return code, err
    return f


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    "Shards of a few Korean and English lines"
    from brainlab.text.shards import prepare
    home = tmp_path_factory.mktemp("prepared")
    (home/"a.txt").write_text("\n\n".join(f"옛날 옛적에 호랑이 {i}마리가 살았습니다. Once there were {i} tigers." for i in range(60)), encoding="utf-8")
    return prepare(home/"a.txt", home/"shards", tokenizer="bytes", seed=1, val_fraction=.2), home/"shards"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "An untrained tiny model with a tokenizer beside it"
    import brainlab
    from brainlab.text.tokenizer import BrainTokenizer
    home, tok = tmp_path_factory.mktemp("model")/"m", BrainTokenizer.bytes_only()
    model = brainlab.build("braingpt", preset="tiny", vocab_size=tok.vocab_size)
    model.save_pretrained(home)
    tok.save(home)
    from brainlab.core.files import write_manifest
    write_manifest(home)
    return home


# What works

def test_no_arguments_prints_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(v in out for v in ("chat", "demo", "doctor", "generate", "lab", "run", "data", "bench", "docs"))


@pytest.mark.parametrize("verb", ["chat", "demo", "doctor", "generate", "lab", "run", "data", "bench", "docs"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as e: main([verb, "--help"])
    assert e.value.code == 0 and "usage: brainlab " + verb in capsys.readouterr().out


def test_help_imports_nothing_heavy(root):
    code = "import sys; from brainlab.cli.main import main; main([]); print([m for m in ('torch', 'numpy', 'plotly', 'papermill', 'IPython', 'nbdev') if m in sys.modules])"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert r.stdout.splitlines()[-1] == "[]", r.stdout + r.stderr


def test_doctor(capsys):
    import json
    assert main(["doctor", "--json"]) == 0
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert {"python", "torch", "cpu", "memory", "cuda", "triton", "compiler", "faiss", "chromium", "quarto", "fonts", "settings", "disk"} <= set(found)


def test_doctor_on_a_terminal_without_unicode(root):
    r = subprocess.run([sys.executable, "-c", "import sys; from brainlab.cli.main import main; sys.exit(main(['doctor']))"], cwd=root, capture_output=True,
                       env=os.environ | dict(PYTHONIOENCODING="ascii", PYTHONUTF8="0"), timeout=120)
    assert r.returncode == 0, r.stderr


def test_doctor_says_what_is_not_there_yet(capsys, monkeypatch):
    import json
    monkeypatch.setenv("BRAINLAB_TRACKER", "wandb")
    assert main(["doctor", "--json"]) == 0
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert {"column kernel", "attention", "embedder", "tracker", "records"} <= set(found)
    assert "scaled_dot_product" in found["attention"]["found"]
    assert "wandb" in found["tracker"]["path"]


def test_bench_saves_under_kernels_dir(capsys, tmp_path, monkeypatch):
    from brainlab.bench import main as bench
    from brainlab.bench.records import read_records, record
    from brainlab.core.timing import Timing
    monkeypatch.setenv("BRAINLAB_KERNELS_DIR", str(tmp_path))
    rec = record("C8", "a test", Timing(2., 1., 3., 5), ("rival", 4.))
    monkeypatch.setattr(bench, "run", lambda name: [rec])
    assert main(["bench", "C8", "--save"]) == 0
    file, = tmp_path.glob("*/foundation.json")
    assert read_records(file) == [rec] and str(file) in capsys.readouterr().out


def test_bench_says_what_it_left_out(capsys, tmp_path, monkeypatch):
    import torch
    from brainlab.bench import main as bench
    from brainlab.bench.records import read_records, record
    from brainlab.core.timing import Timing
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench, "run", lambda name: [record(None, "a test", Timing(2., 1., 3., 5), ("rival", 4.))])
    assert main(["bench", "train", "--json", str(tmp_path/"r.json")]) == 0
    said = capsys.readouterr()
    assert "= 2.00x" in said.out and said.err.startswith("Not measured: G5;") and len(read_records(tmp_path/"r.json")) == 1
    assert main(["bench", "--list"]) == 0
    rows = {o.split()[1]: o for o in capsys.readouterr().out.splitlines()}
    assert {"C1", "C2", "G1", "G2", "G3", "G5", "G8"} <= set(rows) and rows["G5"].endswith("(CUDA)") and not rows["C1"].endswith("(CUDA)")


def test_prepare_counts_what_it_left_out(capsys, tmp_path):
    (tmp_path/"a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nbroken\n{"no": 1}\n')
    assert main(["data", "prepare", str(tmp_path/"a.jsonl"), str(tmp_path/"out"), "--tokenizer", "bytes"]) == 0
    assert "accepted documents: 2; rejected lines: 2 (1 no field 'text', 1 not JSON)" in capsys.readouterr().out


def test_prepare_again_and_otherwise(capsys, tmp_path):
    "As its help says: the same text and options are used again, others replace the shards"
    (tmp_path/"a.txt").write_text("some words\n\n" * 50)
    args = ["data", "prepare", str(tmp_path/"a.txt"), str(tmp_path/"out"), "--tokenizer", "bytes"]
    seen = []
    for more in ([], [], ["--val-fraction", ".5"]):
        assert main([*args, *more]) == 0
        seen.append(((tmp_path/"out"/"index.json").stat().st_mtime_ns, (tmp_path/"out"/"valid.bin").stat().st_size))
    assert seen[0] == seen[1] and seen[2][1] > seen[0][1]


def test_data_list(capsys):
    assert main(["data", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("embedded") and all(len(r.split()) > 3 for r in rows)


@pytest.mark.parametrize("name", ["ko_chatbot", "koen_news", "koen_pud", "koen_tatoeba", "koen_reactdocs", "ko_sent_gsd"])
def test_registered_corpora_can_be_prepared(capsys, root, shared_data, tmp_path, monkeypatch, name):
    (tmp_path/"local").symlink_to(shared_data)
    (tmp_path/"sources.toml").write_bytes((root/"data"/"sources.toml").read_bytes())
    monkeypatch.setenv("BRAINLAB_DATA_DIR", str(tmp_path))
    assert main(["data", "prepare", name, str(tmp_path/"out"), "--tokenizer", "bytes"]) == 0
    assert "nothing rejected" in capsys.readouterr().out


def test_named_fields(capsys, tmp_path):
    (tmp_path/"a.tsv").write_text("id\tko\ten\n" + "".join(f"{i}\t말 {i}\tword {i}\n" for i in range(20)), encoding="utf-8")
    assert main(["data", "prepare", str(tmp_path/"a.tsv"), str(tmp_path/"out"), "--tokenizer", "bytes", "--field", "ko", "--field", "en"]) == 0
    assert "accepted documents: 40; nothing rejected" in capsys.readouterr().out


def test_doctor_shows_what_it_cannot_examine(capsys, monkeypatch):
    for device in ("gpu", "cuda:99"):
        monkeypatch.setenv("BRAINLAB_DEVICE", device)
        assert main(["doctor"]) == 0
        assert "could not be examined" in capsys.readouterr().out


def test_generate_whole_syllables_and_repeatable(checkpoint, capsys):
    texts = []
    for seed in (3, 3, 4):
        assert main(["generate", str(checkpoint), "옛날", "--max-new-tokens", "12", "--seed", str(seed)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].startswith("옛날")
    assert texts[0] != texts[2]


# Wrong verbs, options, settings

def test_unknown_verb(said): assert said("generat", "x", "y") == (2, "brainlab: Unknown verb 'generat'; did you mean 'generate'?\n")


@pytest.mark.parametrize("argv, words", [(["demo", "--minutes", "soon"], "soon"), (["bench", "C99"], "Unknown suite or goal"), (["bench"], "--list"), (["data"], "data list"),
                                         (["generate"], "required"), (["doctor", "--yaml"], "--yaml"), (["lab", "--port", "99999"], "does not exist")])
def test_wrong_options(said, argv, words):
    code, err = said(*argv)
    assert code == 2 and words in err


def test_unknown_setting(said, tmp_path, monkeypatch):
    (tmp_path/"settings.ini").write_text("[brainlab]\ndevise = cpu\n")
    monkeypatch.chdir(tmp_path)
    code, err = said("data", "list")
    assert code == 2 and "devise" in err and "did you mean 'device'?" in err and "settings.ini" in err


def test_setting_of_the_wrong_kind(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINLAB_SEED", "seven")
    code, err = said("data", "list")
    assert code == 2 and "seven" in err and "int" in err


@pytest.mark.parametrize("name, value, words", [("DEVICE", "gpu", "did you mean 'cuda'?"), ("DEVICE", "cuda:x", "expected auto, cpu, cuda or cuda:N"), ("THREADS", "-1", "from 0"), ("SEED", str(2**63), "2**63 - 1")])
def test_settings_out_of_range(said, monkeypatch, name, value, words):
    monkeypatch.setenv(f"BRAINLAB_{name}", value)
    code, err = said("data", "list")
    assert code == 2 and value in err and words in err


@pytest.mark.parametrize("argv, words", [(["generate", "x", "옛날", "옛적에"], "in quotes"), (["generate", "x", "y", "--max_new_tokens", "5"], "did you mean '--max-new-tokens'"),
                                         (["run", "a.ipynb", "b.ipynb", "-p", "minutes=1"], "-p minutes 1"), (["data", "prepare", "embedded", "out", "--sed", "1"], "brainlab data prepare --help"),
                                         (["data", "prepare", "embedded", "out", "--seed", "-1"], "2**63 - 1"), (["data", "prepare", "ko_pros", "out"], "did you mean 'ko_prose_kaist'?")])
def test_wrong_words(said, argv, words): assert words in said(*argv)[1]


def test_output_that_takes_nothing(root):
    if not os.path.exists("/dev/full"): pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        r = subprocess.run([sys.executable, "-c", "import sys; from brainlab.cli.main import main; sys.exit(main(['data', 'list']))"], cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert r.returncode == 74 and len(r.stderr.splitlines()) == 1 and "No space left" in r.stderr


# Wrong data

def test_name_too_long(said, tmp_path):
    for argv in (["data", "prepare", "a" * 5000, tmp_path/"out"], ["data", "prepare", "embedded", tmp_path/("a" * 5000)], ["data", "prepare", "embedded", tmp_path/"out", "--tokenizer", "a" * 5000]):
        code, err = said(*argv)
        assert code == 74 and "name too long" in err and len(err) < 600


def test_target_is_a_file(said, tmp_path):
    (tmp_path/"out").write_text("keep me")
    assert "is a file" in said("data", "prepare", "embedded", tmp_path/"out", "--tokenizer", "bytes")[1]
    assert (tmp_path/"out").read_text() == "keep me"


@pytest.mark.parametrize("name, content", [("empty.txt", b""), ("blank.txt", b" \n\n \n"), ("binary.txt", bytes(range(256)) * 40), ("nul.txt", b"a\0b" * 100), ("empty.jsonl", b""), ("broken.jsonl", b"{not json\n" * 20)])
def test_unusable_source(said, tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    _, err = said("data", "prepare", tmp_path/name, tmp_path/"out", "--tokenizer", "bytes")
    assert name in err
    left = {p.name for p in tmp_path.iterdir()} - {".out.lock"}  # a lock's file stays: removing it would race with the next one
    assert left == {name}, "something half-made was left behind"
    assert (tmp_path/name).read_bytes() == content


def test_missing_source(said, tmp_path):
    _, err = said("data", "prepare", tmp_path/"nowhere.txt", tmp_path/"out")
    assert "nowhere.txt" in err and not (tmp_path/"out").exists()


def test_target_exists(said, prepared, tmp_path):
    out = tmp_path/"out"
    out.mkdir()
    (out/"mine.txt").write_text("keep me")
    _, err = said("data", "prepare", "embedded", out, "--tokenizer", "bytes")
    assert "out" in err and (out/"mine.txt").read_text() == "keep me"


def test_shards_of_another_tokenizer(prepared, tmp_path):
    from brainlab.core.errors import BrainlabError
    from brainlab.text.shards import Shards
    from brainlab.text.tokenizer import BrainTokenizer
    with pytest.raises(BrainlabError) as e: Shards.open(prepared[1], tokenizer=BrainTokenizer())
    assert len(str(e.value).splitlines()) == 1 and "tokenizer" in str(e.value)


# Wrong checkpoints and prompts

def test_missing_checkpoint(said, tmp_path):
    _, err = said("generate", tmp_path/"nothing", "안녕")
    assert "nothing" in err


def test_folder_without_checkpoint(said, tmp_path):
    (tmp_path/"run").mkdir()
    _, err = said("generate", tmp_path/"run", "안녕")
    assert "run" in err


@pytest.mark.parametrize("name, spoil", [("model.safetensors", lambda b: b[:-100]), ("model.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]), ("config.json", lambda b: b"{")])
def test_damaged_checkpoint(said, checkpoint, tmp_path, name, spoil):
    import shutil
    shutil.copytree(checkpoint, tmp_path/"m")
    f = tmp_path/"m"/name
    f.write_bytes(spoil(f.read_bytes()))
    _, err = said("generate", tmp_path/"m", "안녕")
    assert name in err


def test_prompt_longer_than_context(said, checkpoint):
    code, err = said("generate", checkpoint, "가나다라마바사 " * 2000)
    assert code == 2 and "context" in err and "shorten" in err


@pytest.mark.parametrize("argv, words", [(["  "], "empty"), (["a", "--temperature", "-1"], "temperature"), (["a", "--top-k", "0"], "top_k"), (["a", "--max-new-tokens", "-2"], "max_new_tokens"),
                                         (["a", "--top-p", "1.5"], "top_p"), (["a", "--repetition", "0"], "repetition"), (["a", "--prompt", " "], "empty"), (["a", "--exit-threshold", "2"], "exit threshold"), (["a", "--temperature", "nan"], "temperature")])
def test_wrong_generation_values(said, checkpoint, argv, words):
    code, err = said("generate", checkpoint, *argv)
    assert code == 2 and words in err


# Wrong runs

@pytest.mark.parametrize("argv", [["-p", "widht", "3"], ["-p", "steps; import os", "3"], ["-p", "__import__", "3"]])
def test_unknown_parameter(said, root, tmp_path, monkeypatch, argv):
    monkeypatch.setenv("BRAINLAB_CHECKPOINTS_DIR", str(tmp_path))
    _, err = said("run", root/"nbs"/"runs"/"train.ipynb", tmp_path/"out.ipynb", *argv)
    assert argv[1].split(";")[0] in err
    assert list(tmp_path.iterdir()) == []


def test_missing_notebook(said, tmp_path):
    _, err = said("run", tmp_path/"none.ipynb", tmp_path/"out.ipynb")
    assert "none.ipynb" in err and not (tmp_path/"out.ipynb").exists()


# Interruption

def test_interrupt(monkeypatch):
    from brainlab.cli import doctor
    def stop(args): raise KeyboardInterrupt
    monkeypatch.setattr(doctor, "run", stop)
    assert main(["doctor"]) == 130


def test_a_bug_keeps_its_traceback(monkeypatch):
    from brainlab.cli import doctor
    monkeypatch.setattr(doctor, "run", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError): main(["doctor"])
