"brainlab chat: two languages, two processes, bad lines, two at once, Ctrl-C."
import io
import os
import signal
import subprocess
import sys

import pytest

from brainlab.cli.main import main
from brainlab.memory.learner import Learner

RUN = [sys.executable, "-c", "import sys; from brainlab.cli.main import main; sys.exit(main(sys.argv[1:]))", "chat"]

@pytest.fixture
def talk(root, tmp_path, monkeypatch, capsys):
    "A conversation whose lines are piped in, here or in a process of its own: exit code, replies, complaints"
    monkeypatch.setenv("BRAINLAB_EMBEDDER", "light")

    def f(*lines, options=(), text=(), new=False):
        given = b"".join(o if isinstance(o, bytes) else o.encode() + b"\n" for o in lines)
        argv = ["--folder", str(tmp_path/"minds"), *options, *text]
        if new:
            r = subprocess.run([*RUN, *argv], cwd=root, input=given, capture_output=True,
                               env=os.environ | dict(PYTHONUTF8="1"), timeout=120)
            return r.returncode, r.stdout.decode().splitlines(), r.stderr.decode().splitlines()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = main(["chat", *argv])
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()
    return f


def test_chat_in_both_languages_over_two_processes(talk):
    ko, en = "우리 회사의 점심 시간은 언제 시작해?", "When does the library close?"
    code, out, err = talk(ko, en, "우리 회사의 점심 시간은 열두 시에 시작해.", "The library closes at nine.", "the library closes at nine", ko, en, new=True)
    assert (code, err) == (0, []) and out[:4] == ["아직 배우지 않았어요.", "I have not learned that yet.", "기억했어요.", "Noted."] and out[4].startswith("Confirmed")
    assert "열두 시" in out[5] and "확신" in out[5] and "nine" in out[6] and "sure" in out[6]
    code, out, err = talk(en, "No, the library closes at seven.", en, ko, "아니, 한 시야.", ko, "/history", "/quit", "never heard", new=True)
    assert (code, err) == (0, []) and "nine" in out[0] and "before: The library closes at nine." in out[1] and "seven" in out[2] and out[5].startswith("한 시야.") and len(out) == 9
    code, out, err = talk(en, "forget that", en, ko, "그거 잊어줘", ko, "/stats")
    assert (code, err) == (0, []) and out[1].startswith("Forgotten: ") and out[2] == "I have not learned that yet." and out[4].startswith("잊었어요: ") and out[5] == "아직 배우지 않았어요." and out[6].startswith("기억 0개")


def test_chat_says_one_text_and_leaves(talk):
    assert talk(text=["My", "cat", "is", "called", "Nabi."]) == (0, ["Noted."], [])
    code, out, err = talk(text=["What is my cat called?"], options=["--read-only"])
    assert code == 0 and out[0].startswith("My cat is called Nabi.") and not err
    assert talk(text=["What is my cat called?"], options=["--user", "mina"])[1] == ["I have not learned that yet."]
    assert "reading only" in talk("I like tea.", options=["--read-only"])[1][0]


def test_chat_goes_on_after_errors(talk):
    code, out, err = talk(b"a\xff\xfeb\n", b"/wy\n", b"x" * 1_200_000 + b"\n", "\ufeff내 개는 콩이야.\r\n".encode(), b"/stats")
    assert code == 0 and [any(w in o for w in ("UTF-8", "did you mean '/why'?", "at most 1,000,000")) for o in err] == [True] * 3 and all(o.startswith("brainlab: ") for o in err)
    assert out[0] == "기억했어요." and out[1].startswith("기억 1개") and len(out) == 2
    assert talk(b"") == (0, [], [])


def test_two_chats_on_one_mind(talk, tmp_path):
    with Learner(tmp_path/"minds") as learner:
        learner.tell("My cat is called Nabi.")
        for new in (False, True):
            code, out, err = talk("I like tea.", new=new)
            assert (code, out, len(err)) == (75, [], 1) and "--read-only" in err[0]
        code, out, err = talk("What is my cat called?", options=["--read-only"])
        assert code == 0 and "Nabi" in out[0]


def test_chat_on_what_is_no_mind(talk, tmp_path):
    "One sentence and an exit code, and what lies there is left alone"
    for options, text, code in ((["--user", "../me"], "hello", 2), (["--read-only"], "hello", 1), ([], "/telll x", 2)):
        got, out, err = talk(options=options, text=[text])
        assert (got, out, len(err)) == (code, [], 1) and err[0].startswith("brainlab: ")
    (tmp_path/"minds"/"a").parent.mkdir(exist_ok=True)
    (tmp_path/"minds"/"a").write_text("keep me")
    code, out, err = talk(options=["--user", "a"], text=["hello"])
    assert code and out == [] and len(err) == 1 and (tmp_path/"minds"/"a").read_text() == "keep me"


def test_chat_keeps_its_minds_in_the_data_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BRAINLAB_EMBEDDER", "light")
    monkeypatch.setenv("BRAINLAB_DATA_DIR", str(tmp_path))
    assert main(["chat", "My cat is called Nabi."]) == 0 and (tmp_path/"minds"/"me"/"memory.sqlite").is_file()


def test_chat_interrupted(root, tmp_path, talk):
    "Ctrl-C: what was noted is kept, and the mind is free again"
    argv = [*RUN, "--folder", str(tmp_path/"minds")]
    env = os.environ | dict(BRAINLAB_EMBEDDER="light")
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as p:
        p.stdin.write(b"My cat is called Nabi.\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"Noted.\n"
        p.send_signal(signal.SIGINT)
        assert p.wait(60) == 130 and p.stderr.read() == b""
    code, out, _ = talk("What is my cat called?")
    assert code == 0 and out[0].startswith("My cat is called Nabi.")
