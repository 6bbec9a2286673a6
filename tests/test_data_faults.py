"Rows D1 and D4 of the fault matrix: a preparation that is killed leaves nothing that misleads the next one, and two of them never share a folder."
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from brainlab.core.errors import BrainlabError
from brainlab.text.shards import Shards, prepare
from brainlab.text.stories import stories

FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "tempfile.mkdtemp"}
SPEC = dict(tokenizer="train:400", seed=7)

# Workers are forked from a clean process that has the module loaded but has never prepared anything.
workers = multiprocessing.get_context("forkserver")
workers.set_forkserver_preload(["brainlab.text.shards", "pytest"])


def content(folder):
    "Bytes of every file below `folder`, by name"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "A few hundred stories, one per line"
    import json
    path = tmp_path_factory.mktemp("source")/"stories.jsonl"
    path.write_text("".join(json.dumps({"text": s[k]}, ensure_ascii=False) + "\n" for s in stories(1, 150) for k in ("ko", "en")), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    "What a preparation nothing happens to leaves behind"
    out = tmp_path_factory.mktemp("whole")/"out"
    prepare(source, out, **SPEC)
    return content(out)


def at_work(source, out, at, counted=None):
    "Prepare in a process of its own, which kills itself at file operation number `at` (0: never)"
    seen = 0

    def hook(event, _):
        nonlocal seen
        if event not in FILE_EVENTS: return
        seen += 1
        if seen == at: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    prepare(source, out, **SPEC)
    if counted is not None: counted.value = seen


@pytest.fixture(scope="module")
def usual(source, tmp_path_factory):
    "File operations and seconds of a whole preparation in a worker"
    counted = workers.Value("i", 0)
    for _ in range(2):  # the first also starts the process all workers are forked from
        start = time.monotonic()
        p = workers.Process(target=at_work, args=(source, tmp_path_factory.mktemp("usual")/"out", 0, counted))
        p.start(); p.join(60)
        assert p.exitcode == 0 and counted.value > 10
    return counted.value, time.monotonic() - start


def killed(source, out, at, seconds):
    "A preparation killed at file operation `at`, or after `seconds`; True if the kill came in time"
    p = workers.Process(target=at_work, args=(source, out, at))
    p.start()
    p.join(seconds if seconds else 60)
    if p.is_alive(): p.kill(); p.join(10)
    assert p.exitcode in (0, -signal.SIGKILL), "it died of something else"
    return p.exitcode != 0


def misleads(out):
    "Is there something at `out` that opens and is not whole?"
    try: return content(out) if out.exists() and Shards.open(out) else None
    except BrainlabError: return None


def kill_and_repeat(trials, source, whole, usual, folder):
    "Row D1: kill, look, repeat; even trials at a file operation, odd ones at a moment"
    events, seconds = usual
    dice, hits = random.Random(42), 0
    for i in range(trials):
        out = folder/f"out{i}"
        older = i % 3 == 2  # an older, whole preparation is there already
        if older: prepare(source, out, **SPEC | dict(seed=8))
        before = misleads(out)
        hits += killed(source, out, *((0, dice.uniform(.1, 1)*seconds) if i % 2 else (1 + (i*(events - 1))//max(1, trials - 1), None)))
        assert misleads(out) in (None, before, whole), "half a preparation opens as if it were whole"
        prepare(source, out, **SPEC)
        assert content(out) == whole, f"trial {i}: the repeated preparation differs"
        assert {p.name for p in folder.glob(f"*out{i}*")} == {f"out{i}", f".out{i}.lock"}, "a killed preparation left its folder behind"
    assert hits >= trials//2, f"only {hits} of {trials} kills came in time"


def test_killed_preparation(source, whole, usual, tmp_path): kill_and_repeat(6, source, whole, usual, tmp_path)


@pytest.mark.slow
def test_killed_preparation_in_full(source, whole, usual, tmp_path): kill_and_repeat(60, source, whole, usual, tmp_path)


# D4: two at once

WAITS = """
import os, sys, time
from pathlib import Path
from brainlab.cli.main import main
flag, go = map(Path, sys.argv[1:3])
def hook(event, args):
    if event == "open" and str(args[0]).endswith("train.bin") and not flag.exists():
        flag.touch()
        while not go.exists(): time.sleep(.02)
sys.addaudithook(hook)
sys.exit(main(sys.argv[3:]))
"""
RUNS = "import sys; from brainlab.cli.main import main; sys.exit(main(sys.argv[1:]))"


def two_at_once(source, whole, folder):
    "The first stops in the middle of its work until the second has been turned away"
    folder.mkdir()
    out, flag, go = folder/"out", folder/"flag", folder/"go"
    args = ["data", "prepare", str(source), str(out), "--tokenizer", SPEC["tokenizer"], "--seed"]
    first = subprocess.Popen([sys.executable, "-c", WAITS, str(flag), str(go), *args, "7"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if flag.exists() or first.poll() is not None: break
            time.sleep(.05)
        assert first.poll() is None and flag.exists(), first.stderr.read()
        second = subprocess.run([sys.executable, "-c", RUNS, *args, "8"], capture_output=True, text=True, timeout=60)
        assert second.returncode == 75, second.stderr
        assert "Another process" in second.stderr and len(second.stderr.splitlines()) == 1
        go.touch()
        assert first.wait(60) == 0, first.stderr.read()
    finally: first.kill(); first.wait(); first.stderr.close()
    assert content(out) == whole, "the two were mixed"


def test_two_preparations(source, whole, tmp_path): two_at_once(source, whole, tmp_path/"both")


@pytest.mark.slow
def test_two_preparations_in_full(source, whole, tmp_path):
    for i in range(10): two_at_once(source, whole, tmp_path/f"both{i}")
