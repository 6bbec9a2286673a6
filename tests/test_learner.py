"""The learner over restarts, many threads and random operations (rows M3 and M5 of the fault matrix)"""
import random, subprocess, sys, threading, time

import numpy as np
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from brainlab.memory.embedder import LightEmbedder
from brainlab.memory.learner import UNTOLD, Learner
from brainlab.memory.long_term import LongTermMemory
from brainlab.text.facts import facts

LIGHT = LightEmbedder(256)

CHILD = """
import sys
from brainlab.memory.embedder import LightEmbedder
from brainlab.memory.learner import Learner
with Learner(sys.argv[1], embedder=LightEmbedder()) as learner:
    for q in sys.argv[2:]: print(learner.ask(q).text)
"""

def in_new_process(folder, *questions):
    "Answers of a learner that is opened in another process"
    return subprocess.run([sys.executable, "-c", CHILD, str(folder), *questions], capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()

def test_scripted_conversation(tmp_path):
    "Not learned yet; told once; a restart; a thousand other things; corrected; forgotten"
    ko, en = "우리 회사의 점심 시간은 언제 시작해?", "When does the library close?"
    with Learner(tmp_path, embedder=LightEmbedder()) as learner:
        assert [learner.ask(q).text for q in (ko, en)] == [UNTOLD["ko"], UNTOLD["en"]]
        learner.tell("우리 회사의 점심 시간은 열두 시에 시작해.")
        learner.tell("The library closes at nine.")
        assert "열두 시" in learner.ask(ko).text and "nine" in learner.ask(en).text
    first = in_new_process(tmp_path, ko, en)
    assert "열두 시" in first[0] and "nine" in first[1]
    others = facts(1000, seed=1)
    with Learner(tmp_path, embedder=LightEmbedder()) as learner:
        for f in others: learner.tell(f.text)
        assert "열두 시" in learner.ask(ko).text and "nine" in learner.ask(en).text
        new = learner.correct("The library closes at seven.")
    assert in_new_process(tmp_path, ko, en) == ["우리 회사의 점심 시간은 열두 시에 시작해.", "The library closes at seven."]
    with Learner(tmp_path, embedder=LightEmbedder()) as learner:
        assert [o.text for o in learner.history(new)] == ["The library closes at seven.", "The library closes at nine."]
        assert len(learner.forget(en)) == 2 and learner.forget(ko) == ["우리 회사의 점심 시간은 열두 시에 시작해."]
        assert learner.ask(ko).abstained and learner.ask(en).abstained
        assert learner.stats()["memories"] == len(others)
    assert in_new_process(tmp_path, ko, en) == [UNTOLD["ko"], UNTOLD["en"]]
    for word in (b"library closes", "점심 시간".encode()): assert not any(word in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())

def busy(folder, seconds):
    "4 writers, 3 searchers and a consolidator on one memory; returns what was acknowledged and not forgotten, and every error"
    memory, stop, errors, kept, lock = LongTermMemory(folder, LIGHT), time.monotonic() + seconds, [], {}, threading.Lock()

    def worker(do, seed):
        "Repeat until the time is over"
        gen, n = random.Random(seed), 0
        while time.monotonic() < stop:
            try: do(gen, seed, n)
            except Exception as e: errors.append(e); return
            n += 1

    def write(gen, seed, n):
        texts = [f"writer {seed} tells thing {n}.{i} number {gen.randrange(10**6)}" for i in range(gen.randrange(1, 4))]
        ids = memory.add(texts)
        with lock: kept.update(zip(ids, texts))
        if gen.random() < .2:
            memory.forget(ids[:1])
            with lock: kept.pop(ids[0])

    def search(gen, seed, n):
        with lock: some = gen.choice(list(kept.values())) if kept else "nothing"
        for o in memory.search([some], 5)[0]: assert o.item.text and -1.01 < o.similarity < 1.01

    def consolidate(gen, seed, n):
        with lock: ids = list(kept)[-20:]
        for id in ids[:5]:
            try: memory.move(id, gen.choice(["short", "long", "archive"]), "promoted")
            except Exception:
                with lock: there = id in kept
                if there and id in memory.store: raise # forgotten meanwhile is no error

    threads = [threading.Thread(target=worker, args=(do, i)) for i, do in enumerate([write] * 4 + [search] * 3 + [consolidate])]
    for t in threads: t.start()
    for t in threads: t.join(seconds + 60)
    assert not any(t.is_alive() for t in threads), "a deadlock"
    memory.flush()
    return memory, kept, errors

def check_busy(folder, seconds):
    "Nothing crashed, and every acknowledged memory is found once, before and after a restart"
    memory, kept, errors = busy(folder, seconds)
    assert not errors, errors
    assert len(kept) > 10
    for opened in (memory, None):
        opened = opened or LongTermMemory(folder, LIGHT)
        items = {o.id: o for o in opened.store.items()}
        assert {i: o.text for i, o in items.items()} == kept
        assert sorted(np.concatenate([i.ids for i in opened.indexes.values()]).tolist()) == sorted(kept)
        assert all(id in opened.indexes[o.tier] for id, o in items.items())
        for id in list(kept)[::max(1, len(kept) // 25)]: assert opened.search([kept[id]], 1)[0][0].item.id == id
        assert opened.store.check() == []
        opened.close()

def test_many_threads(tmp_path): check_busy(tmp_path/"m", 6)

@pytest.mark.slow
@pytest.mark.parametrize("i", range(3))
def test_many_threads_for_a_minute(tmp_path, i): check_busy(tmp_path/"m", 60)

class Mind(RuleBasedStateMachine):
    "A learner against a dictionary"
    told = Bundle("told")

    def __init__(self):
        super().__init__()
        import tempfile
        self.folder, self.known, self.n = tempfile.TemporaryDirectory(), {}, 0
        self.open()

    def open(self): self.learner = Learner(self.folder.name, embedder=LIGHT, short=3, long=4, uses=2, threshold=0.)

    @rule(target=told, answer=st.sampled_from("abc"))
    def tell_new(self, answer):
        question, self.n = f"what is kept in box q{self.n * 7919}z?", self.n + 1
        self.learner.tell(question, answer)
        self.known[question] = {answer: 1}
        return question

    @rule(question=told, answer=st.sampled_from("abc"))
    def tell_again(self, question, answer):
        if question not in self.known: return
        self.learner.tell(question, answer)
        self.known[question][answer] = self.known[question].get(answer, 0) + 1

    @rule(question=told)
    def ask(self, question):
        found, votes = self.learner.ask(question), self.known.get(question)
        if votes: assert votes[found.text] == max(votes.values()), (found, votes)

    @rule(question=told, answer=st.sampled_from("abc"))
    def correct(self, question, answer):
        if question not in self.known: return
        self.learner.correct(question, answer)
        self.known[question] = {answer: 1}

    @rule(question=consumes(told))
    def forget(self, question):
        if self.known.pop(question, None): self.learner.forget([id for id, _ in self.learner.votes[question.rstrip("?")].values()])

    @rule(tier=st.sampled_from(["one", "two"]))
    def talk_elsewhere(self, tier): self.learner.conversation = tier

    @rule()
    def sleep(self): self.learner.sleep(examined=3)

    @rule()
    def reopen(self):
        self.learner.close()
        self.open()

    @invariant()
    def same(self):
        votes = {}
        for o in self.learner.memory.store.items():
            if o.replaced_by is None: votes.setdefault(o.text, {})[o.answer] = o.confirmations
            assert o.id in self.learner.memory.indexes[o.tier] and self.learner.tiers.tier(o.id) == o.tier
        assert votes == self.known
        assert len(self.learner.tiers.long) <= 4 and all(len(o) <= 3 for o in self.learner.tiers.short.values())

    def teardown(self):
        self.learner.close()
        self.folder.cleanup()

few = dict(deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck))

def test_random_operations():
    from hypothesis.stateful import run_state_machine_as_test
    run_state_machine_as_test(Mind, settings=settings(max_examples=20, **few))

@pytest.mark.slow
def test_many_random_operations():
    from hypothesis.stateful import run_state_machine_as_test
    run_state_machine_as_test(Mind, settings=settings(max_examples=200, **few))
