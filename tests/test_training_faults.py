"Rows T1-T8 of the fault matrix: whatever happens to a training run, it goes on bit by bit as if it had not happened."
import errno
import math
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch

from brainlab.core.errors import BrainlabError, IOFault, UsageError
from brainlab.core.files import read_json
from brainlab.models.braingpt import BrainGPT, BrainGPTConfig
from brainlab.models.gpt import GPT, GPTConfig
from brainlab.training.callbacks import Checkpointing, Metrics, SpikeGuard, Status, Stop, read_metrics
from brainlab.training.checkpoint import checkpoints, fingerprint, latest, pack_optimizer, save, sweep, verify
from brainlab.training.toy import Toy, ToyConfig, ToyLoader
from brainlab.training.trainer import TrainConfig, Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Skipping checkpoint")
STEPS, EVERY = 40, 5

# Workers are forked from a clean process that has torch loaded but has never trained.
workers = multiprocessing.get_context("forkserver")
workers.set_forkserver_preload(["torch._dynamo", "safetensors.torch", "pytest", "brainlab.training.callbacks", "brainlab.training.toy", "brainlab.models.braingpt"])


def make(run_dir, *more, steps=STEPS, loader=None, model=None, **config):
    "A toy trainer with the callbacks that matter here"
    config = TrainConfig(**{"steps": steps, "batch": 4, "length": 8, "lr": 1e-2, "save_every": EVERY, "eval_every": 0, "precision": "fp32", **config})
    return Trainer(model or Toy(ToyConfig()), loader or ToyLoader(4, 8), config, [Status(run_dir), Metrics(run_dir), Checkpointing(run_dir), SpikeGuard(), Stop(), *more])


def brain(kind=BrainGPT, **kw):
    "A BrainGPT as small as the toy; its homeostasis counts in buffers that are not stored"
    return kind(BrainGPTConfig.preset("tiny", **{"vocab_size": 32, "context_length": 16, "n_layer": 2, "n_embd": 16, "n_cortical_columns": 8, "column_size": 4, "sparsity_base": .75, **kw}))


def bits(trainer):
    "Hashes of weights, all buffers (also those that are not stored) and moments"
    return (fingerprint(trainer.model.state_dict()), fingerprint(dict(trainer.model.named_buffers())), fingerprint(pack_optimizer(trainer.model, trainer.optimizer)))


def losses(run_dir): return [(r["step"], r.get("loss"), r["lr"]) for r in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run nothing happens to: hashes and logged losses"
    run_dir = tmp_path_factory.mktemp("whole")
    run = make(run_dir).fit()
    return bits(run), losses(run_dir)


@pytest.fixture(scope="module")
def whole_brain(tmp_path_factory):
    "The same for a BrainGPT"
    run_dir = tmp_path_factory.mktemp("whole-brain")
    run = make(run_dir, model=brain()).fit()
    return bits(run), losses(run_dir)


def finish(run_dir, steps=STEPS, model=None):
    "Resume in this process and train to the end"
    run = make(run_dir, steps=steps, model=model)
    run.resume(run_dir)
    return run.fit()


class Crash:
    "Kills this process without warning before or after its n-th operation on files (0, 1, 2, ...: before, after, before, ...)"
    names = [(os, "fsync"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "chmod"), (tempfile, "mkdtemp"), (tempfile, "NamedTemporaryFile")]

    def __init__(self, at, log=None):
        self.at, self.log, self.n = at, log, 0
        for mod, name in self.names: setattr(mod, name, self.wrap(getattr(mod, name)))

    def wrap(self, fn):
        def inner(*a, **kw):
            self.tick()
            res = fn(*a, **kw)
            self.tick()
            return res
        return inner

    def tick(self):
        if self.n == self.at: os.kill(os.getpid(), signal.SIGKILL)
        self.n += 1
        if self.log: Path(self.log).write_text(str(self.n))


class Beat:
    "Callback that tells the parent about the first step of this process, then trains at a pace that a kill can hit"
    order = 99
    def __init__(self, event): self.event = event
    def after_step(self, trainer): self.event.set(); time.sleep(.002)


def work(run_dir, steps=STEPS, event=None, crash_at=None, log=None, brains=False):
    "One life of a training process"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = make(run_dir, *([Beat(event)] if event else []), steps=steps, model=brain() if brains else None)
    run.resume(run_dir)
    if crash_at is not None: Crash(crash_at, log)
    run.fit()


def life(run_dir, **kw):
    "Run `work` in a process of its own"
    p = workers.Process(target=work, args=(str(run_dir),), kwargs=kw)
    p.start()
    return p


def ended(p, code=None):
    "Wait for a process; it must not hang, and end with `code`"
    p.join(60)
    assert p.exitcode is not None, "the process hangs"
    assert code is None or p.exitcode == code


# T1: kill -9 at any instant

@pytest.mark.parametrize("case", range(60))
def test_killed_run_goes_on_bitwise(case, tmp_path, whole):
    rng = random.Random(case)
    if case % 3 == 0:  # inside a save (or the writing of status and metrics around it)
        ended(life(tmp_path, crash_at=rng.randrange(300)), -signal.SIGKILL)
    else:
        begun = workers.Event()
        p = life(tmp_path, event=begun)
        assert begun.wait(60)
        time.sleep(rng.random() * .3)
        p.kill()
        ended(p)
    run = finish(tmp_path)
    assert (bits(run), losses(tmp_path)) == whole
    assert not list(tmp_path.glob(".step-*"))


@pytest.mark.parametrize("case", range(6))
def test_killed_brain_goes_on_bitwise(case, tmp_path, whole_brain):
    rng = random.Random(case)
    if case % 3 == 0: ended(life(tmp_path, crash_at=rng.randrange(300), brains=True), -signal.SIGKILL)
    else:
        begun = workers.Event()
        p = life(tmp_path, event=begun, brains=True)
        assert begun.wait(60)
        time.sleep(rng.random() * .3)
        p.kill()
        ended(p)
    run = finish(tmp_path, model=brain())
    assert (bits(run), losses(tmp_path)) == whole_brain


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_muon_goes_on_bitwise(gradient_checkpointing, tmp_path):
    "Two optimizers, one checkpoint; and recomputing the blocks changes nothing in a whole run"
    kw = dict(steps=3*EVERY, optimizer="muon")
    whole = make(tmp_path/"whole", model=brain(), **kw).fit()
    make(tmp_path/"run", StopAt(EVERY + 2), model=brain(gradient_checkpointing=gradient_checkpointing), **kw).fit()
    rest = make(tmp_path/"run", model=brain(gradient_checkpointing=gradient_checkpointing), **kw)
    assert rest.resume(tmp_path/"run") == EVERY + 2
    assert bits(rest.fit()) == bits(whole)


@pytest.mark.parametrize("other", ["adamw", "muon"])
def test_a_checkpoint_of_another_optimizer_is_refused(other, tmp_path):
    make(tmp_path, model=brain(), steps=EVERY, optimizer=other).fit()
    run = make(tmp_path, model=brain(), steps=2*EVERY, optimizer="muon" if other == "adamw" else "adamw")
    with pytest.raises(BrainlabError, match="training optimizer"): run.resume(tmp_path)
    with pytest.raises(BrainlabError, match="lacks"): run.resume(tmp_path, override=["training"])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_run_learns_the_same(tmp_path):
    "Half a minute of compiling; the same run but for the order of sums"
    net = lambda: GPT(GPTConfig.preset("tiny", vocab_size=600, context_length=32))
    runs = [Trainer(net(), ToyLoader(16, 32, vocab_size=600), TrainConfig(steps=3, precision="fp32", compile=c)).fit() for c in (False, True)]
    assert runs[1].loss_fn != runs[1].model.loss, "it was not compiled"
    for p, q in zip(*(r.model.parameters() for r in runs)): torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


# T2: crash before and after every write, fsync, rename and removal of a save that also prunes

def resumes_after_crash(at, prepared, run_dir):
    "Crash at point `at`; a checkpoint must be left, and the run must go on to the same end"
    shutil.copytree(prepared, run_dir)
    ended(life(run_dir, steps=3*EVERY, crash_at=at), -signal.SIGKILL)
    path = latest(run_dir)
    assert int(path.name[5:]) >= 2*EVERY
    assert all(verify(o) is None for o in checkpoints(run_dir))  # no half folder under a final name
    return bits(finish(run_dir, steps=3*EVERY))


@pytest.mark.parametrize("part", range(10))
def test_crash_at_every_file_operation(part, tmp_path, crash_setup):
    prepared, n, expected = crash_setup
    assert n > 60, "the crash points do not cover a whole save"
    for at in range(part, n, 10): assert resumes_after_crash(at, prepared, tmp_path/str(at)) == expected


@pytest.fixture(scope="module")
def crash_setup(tmp_path_factory):
    "A run that has saved twice and saves (and prunes) once more; number of crash points; hashes at its end"
    run_dir = tmp_path_factory.mktemp("crash")/"run"
    stop = StopAt(2*EVERY)
    make(run_dir, stop, steps=3*EVERY).fit()
    log = run_dir.with_name("n")
    ended(life(shutil.copytree(run_dir, run_dir.with_name("count")), steps=3*EVERY, crash_at=10**9, log=str(log)), 0)
    return run_dir, int(log.read_text()), bits(make(run_dir.with_name("straight"), steps=3*EVERY).fit())


class StopAt:
    "Callback that ends the run after a step"
    order = 80
    def __init__(self, step): self.step = step
    def after_step(self, trainer): trainer.stopping = trainer.step == self.step


def test_old_checkpoint_stays_until_the_new_one_verifies(tmp_path, monkeypatch):
    run = make(tmp_path, steps=2*EVERY).fit()
    monkeypatch.setattr("brainlab.training.checkpoint.verify", lambda path: (_ for _ in ()).throw(BrainlabError("bad bytes")))
    with pytest.raises(BrainlabError, match="bad bytes"): save(tmp_path, 99, run.model, run.optimizer, {}, keep=1)
    assert {"step-000005", "step-000010"} <= {o.name for o in checkpoints(tmp_path)}


# T3: damaged bytes

@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A run folder with two good checkpoints"
    run_dir = tmp_path_factory.mktemp("two")
    make(run_dir, steps=2*EVERY).fit()
    return run_dir


def damage(raw, rng):
    "`raw` with one bit flipped, or cut short"
    if rng.random() < .5: return raw[:rng.randrange(len(raw))]
    i = rng.randrange(len(raw))
    return raw[:i] + bytes([raw[i] ^ 1 << rng.randrange(8)]) + raw[i+1:]


@pytest.mark.parametrize("case", range(10))
def test_damaged_checkpoint_is_never_loaded(case, two):
    rng, newest = random.Random(case), checkpoints(two)[-1]
    files = sorted(newest.iterdir())
    for i in range(40):
        file = files[i % len(files)]
        good = file.read_bytes()
        file.write_bytes(damage(good, rng))
        try:
            with pytest.warns(UserWarning, match=file.name if file.name != "manifest.json" else newest.name): assert latest(two) == checkpoints(two)[0]
            with pytest.raises(BrainlabError): make(two, steps=2*EVERY).resume(two, newest)
        finally: file.write_bytes(good)
    assert latest(two) == newest


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.json", "manifest.json"])
def test_missing_file_falls_back(name, two, tmp_path):
    run_dir = shutil.copytree(two, tmp_path/"run")
    (checkpoints(run_dir)[-1]/name).unlink()
    with pytest.warns(UserWarning, match=name): assert latest(run_dir).name == "step-000005"


# T4: the disk says no

@pytest.mark.parametrize("where", [(os, "fsync"), (os, "replace"), (tempfile, "NamedTemporaryFile"), (tempfile, "mkdtemp")], ids=lambda o: o[1])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_failed_save_leaves_the_older_one(where, code, tmp_path, monkeypatch):
    run = make(tmp_path, steps=EVERY).fit()
    before = {o: o.read_bytes() for o in latest(tmp_path).iterdir()}
    def fails(*a, **kw): raise OSError(code, os.strerror(code))
    with monkeypatch.context() as m:
        m.setattr(*where, fails)
        with pytest.raises(IOFault, match=os.strerror(code)) as e: save(tmp_path, 9, run.model, run.optimizer, run.state_dict())
    assert e.value.exit_code == 74
    assert {o: o.read_bytes() for o in latest(tmp_path).iterdir()} == before
    assert [o.name for o in checkpoints(tmp_path)] == ["step-000005"]


def test_full_disk_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    make(tmp_path, StopAt(EVERY)).fit()
    run = make(tmp_path)
    run.resume(tmp_path)
    def full(*a, **kw): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("brainlab.core.files.os.replace", full)
    with pytest.raises(IOFault, match="No space left"): run.fit()
    monkeypatch.undo()
    assert latest(tmp_path).name == "step-000005"


# T5: asked to stop

@pytest.mark.parametrize("case", range(10))
def test_signal_saves_and_resumes_bitwise(case, tmp_path, whole):
    begun = workers.Event()
    p = life(tmp_path, event=begun)
    assert begun.wait(60)
    time.sleep(random.Random(case).random() * .05)
    os.kill(p.pid, (signal.SIGTERM, signal.SIGINT)[case % 2])
    p.join(10)
    assert p.exitcode == 0
    status = read_json(tmp_path/"status.json")
    assert status["state"] == ("stopped" if status["step"] < STEPS else "finished")
    assert latest(tmp_path).name == f"step-{status['step']:06d}"
    run = finish(tmp_path)
    assert (bits(run), losses(tmp_path)) == whole


# T6: bad numbers

class Spoilt:
    "Makes the loss or gradient of a model bad at chosen steps"
    at, how, calls = (), "loss", 0
    def loss(self, tokens, targets):
        out, self.calls = super().loss(tokens, targets), self.calls + 1
        if self.calls not in self.at: return out
        if self.how == "gradient": out.total.register_hook(lambda g: g * math.nan)
        else: out.total = out.total * {"loss": math.nan, "infinite": math.inf, "spike": 9.}[self.how]
        return out


class Bad(Spoilt, Toy): "A toy that is spoilt"


class BadBrain(Spoilt, BrainGPT): "A BrainGPT that is spoilt"


class Watch:
    "Callback that keeps the hashes after each step"
    order = 98
    def before_fit(self, trainer): self.seen = []
    def after_step(self, trainer): self.seen.append((bool(trainer.reason), bits(trainer)))


def bad_run(run_dir, how, at, steps=80, model=None):
    model = model or Bad(ToyConfig())
    model.how, model.at = how, at
    watch = Watch()
    return make(run_dir, watch, model=model, steps=steps, save_every=0), watch


@pytest.mark.parametrize("how, at", [("loss", {4}), ("infinite", {4}), ("gradient", {4}), ("spike", {70}), ("loss", {1, 3, 5, 6}), ("loss", {4, 5})])
def test_bad_step_changes_nothing(how, at, tmp_path):
    run, watch = bad_run(tmp_path, how, at)
    run.fit()
    assert {i + 1 for i, (skipped, _) in enumerate(watch.seen) if skipped} == at
    for i in sorted(at - {1}): assert watch.seen[i-1][1] == watch.seen[i-2][1]
    assert all(watch.seen[i][1] != watch.seen[i-1][1] for i in range(1, 80) if i + 1 not in at)  # the next clean step is taken
    rows = read_metrics(tmp_path)
    assert {r["step"] for r in rows if "skipped" in r} == at
    assert all(math.isfinite(r["loss"]) for r in rows if "loss" in r)


@pytest.mark.parametrize("how, at", [("loss", {4}), ("gradient", {4, 5}), ("spike", {70})])
def test_bad_step_changes_nothing_in_a_brain(how, at, tmp_path):
    run, watch = bad_run(tmp_path, how, at, model=brain(BadBrain))
    run.fit()
    assert {i + 1 for i, (skipped, _) in enumerate(watch.seen) if skipped} == at
    for i in at: assert watch.seen[i-1][1] == watch.seen[i-2][1]


def test_checkpoint_right_after_a_skip_resumes_bitwise(tmp_path):
    "The columns counted in the skipped step are forgotten, as they are in the process that resumes"
    straight, _ = bad_run(tmp_path/"straight", "loss", {4}, steps=8, model=brain(BadBrain))
    straight.fit()
    model = brain(BadBrain)
    model.at = {4}
    make(tmp_path/"two", StopAt(4), model=model, steps=8, save_every=0).fit()
    rest = make(tmp_path/"two", model=brain(BadBrain), steps=8, save_every=0)
    assert rest.resume(tmp_path/"two") == 4 and rest.skipped == 1
    assert bits(rest.fit()) == bits(straight)


class Counting(Bad):
    "A spoilt toy that counts its tokens in a buffer that is not stored, and forgets them after a step"
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("counted", torch.zeros(()), persistent=False)
    def forward(self, tokens):
        self.counted += tokens.numel()
        return super().forward(tokens)
    def after_step(self):
        super().after_step()
        self.bias += 1e-3 * self.counted
        self.counted.zero_()


def test_buffers_that_are_not_stored_go_back_too(tmp_path):
    straight, watch = bad_run(tmp_path/"straight", "loss", {4}, steps=8, model=Counting(ToyConfig()))
    straight.fit()
    assert watch.seen[3][1] == watch.seen[2][1]
    model = Counting(ToyConfig())
    model.at = {4}
    make(tmp_path/"two", StopAt(4), model=model, steps=8, save_every=0).fit()
    rest = make(tmp_path/"two", model=Counting(ToyConfig()), steps=8, save_every=0)
    rest.resume(tmp_path/"two")
    assert bits(rest.fit()) == bits(straight)


@pytest.mark.parametrize("how, first", [("loss", 4), ("gradient", 1)])
def test_persistent_nan_ends_with_good_weights(how, first, tmp_path):
    run, watch = bad_run(tmp_path, how, range(first, 999))
    start = bits(run)
    with pytest.raises(BrainlabError, match="3 steps in a row were skipped"): run.fit()
    assert bits(run) == (watch.seen[first-2][1] if first > 1 else start)
    assert read_json(tmp_path/"status.json")["state"] == "failed"


def test_no_false_alarm_in_2000_clean_steps(tmp_path):
    run = make(tmp_path, steps=2000, save_every=0).fit()
    assert run.skipped == 0


def test_spike_statistics_ignore_bad_losses(tmp_path):
    run, _ = bad_run(tmp_path, "loss", {60, 61})
    guard = next(o for o in run.callbacks if isinstance(o, SpikeGuard))
    run.fit()
    assert math.isfinite(guard.mean) and math.isfinite(guard.var) and guard.n == 78


# T7: out of memory

class Small:
    "A model on a device that holds `rows` rows, or whose memory runs out in backward once"
    rows, where, failed = 99, "forward", False
    def fail(self, *_):
        self.failed = True
        raise torch.OutOfMemoryError("simulated")
    def loss(self, tokens, targets):
        out = super().loss(tokens, targets)  # the random numbers are drawn before memory runs out
        if len(tokens) > self.rows:
            if self.where == "forward": self.fail()
            out.total.register_hook(self.fail)
        return out


class Tight(Small, Toy): "A tight toy"


class TightBrain(Small, BrainGPT): "A tight BrainGPT"


@pytest.mark.parametrize("kind", ["toy", "brain"])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("rows, parts", [(2, 2), (1, 4)])
def test_smaller_parts_same_run(where, rows, parts, kind, tmp_path):
    model = brain(TightBrain) if kind == "brain" else Tight(ToyConfig())
    model.rows, model.where = rows, where
    tight = make(tmp_path/"tight", model=model, steps=8).fit()
    cut = make(tmp_path/"cut", model=brain() if kind == "brain" else None, steps=8, grad_accumulation=parts).fit()
    assert model.failed and (tight.micro, tight.tokens) == (parts, 8*4*8)
    assert bits(tight) == bits(cut)  # also the dropout masks: random state went back with the batch


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_give_the_same_gradient(parts, tmp_path):
    def gradient(parts):
        run = make(tmp_path, model=Toy(ToyConfig(dropout=0.)).double(), grad_accumulation=parts)
        run.keep_buffers()
        run.gradient(*run.loader.batch(0))
        return run.model.embed.weight.grad
    assert (gradient(parts) - gradient(1)).abs().max() < 1e-12


def test_out_of_memory_in_the_optimizer_step(tmp_path, whole):
    run = make(tmp_path)
    step, calls = run.optimizer.step, []
    def once(*a):
        calls.append(1)
        if len(calls) == 1: raise torch.OutOfMemoryError("simulated")
        return step(*a)
    run.optimizer.step = once
    assert bits(run.fit()) == whole[0]


@pytest.mark.parametrize("at", range(1, 5))
def test_out_of_memory_for_moments_steps_no_group(at, tmp_path, monkeypatch):
    "Two groups of parameters; making the moments fails at tensor `at`, also in the second group"
    real, calls = torch.zeros_like, []
    def full(*a, **kw):
        calls.append(1)
        if len(calls) == at: raise torch.OutOfMemoryError("simulated")
        return real(*a, **kw)
    class Scaled(Toy):
        def forward(self, tokens):
            out = super().forward(tokens)
            out.logits = out.logits * self.scale.mean()
            return out
    def build(run_dir):
        m = Scaled(ToyConfig())
        m.scale = torch.nn.Parameter(torch.ones(3))
        return make(run_dir, model=m, steps=6)
    straight = bits(build(tmp_path/"straight").fit())
    with monkeypatch.context() as m:
        m.setattr(torch, "zeros_like", full)
        try: run = build(tmp_path/"full")
        except BrainlabError as e:
            assert "Out of memory for the optimizer's moments" in str(e)
            run = build(tmp_path/"full")
        assert len(run.optimizer.param_groups) == 2
        assert bits(run.fit()) == straight


def test_half_an_optimizer_step_is_not_repeated(tmp_path):
    run = make(tmp_path)
    def half():
        with torch.no_grad(): run.model.embed.weight.mul_(.9)
        raise torch.OutOfMemoryError("simulated")
    run.optimizer.step = half
    with pytest.raises(BrainlabError, match="middle of an optimizer step"): run.fit()


# T8: not the same run

DIFFERENT = {
    "data": dict(loader=ToyLoader(4, 8, jump=.3)), "vocabulary": dict(loader=ToyLoader(4, 8, vocab_size=31)), "seed of the batches": dict(loader=ToyLoader(4, 8, seed=7)),
    "width": dict(model=Toy(ToyConfig(width=8))), "dropout": dict(model=Toy(ToyConfig(dropout=.2))), "lr": dict(lr=.5), "seed": dict(seed=7), "steps": dict(steps=99),
    "rows": dict(loader=ToyLoader(6, 8), batch=6), "length": dict(loader=ToyLoader(4, 6), length=6),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_run_is_refused(what, two):
    with pytest.raises(BrainlabError, match="this run has .* override="): make(two, **{"steps": 2*EVERY, **DIFFERENT[what]}).resume(two)


def test_worker_count_is_refused_and_override_allows(two):
    loader = ToyLoader(4, 8)
    loader.world = 2
    with pytest.raises(BrainlabError, match="loader world = 1, this run has 2"): make(two, loader=loader, steps=2*EVERY).resume(two)
    assert make(two, loader=loader, steps=2*EVERY).resume(two, override=("loader",)) == 2*EVERY


def test_loader_and_config_must_agree(tmp_path):
    with pytest.raises(UsageError, match="'batch' is 4, but the loader gives 6"): make(tmp_path, loader=ToyLoader(6, 8))
    with pytest.raises(UsageError, match="'length' is 8, but the loader gives 9"): make(tmp_path, loader=ToyLoader(4, 9))
    run = make(tmp_path, loader=ToyLoader(6, 9), batch=0, length=0)
    assert (run.config.batch, run.config.length) == (6, 9)


def test_unknown_override(two):
    with pytest.raises(UsageError, match="did you mean 'loader'"): make(two, steps=2*EVERY).resume(two, override=("loaders",))


# Precision

@pytest.mark.parametrize("kind", ["gpt", "braingpt"])
def test_three_steps_in_bf16(kind, tmp_path):
    model = brain() if kind == "braingpt" else GPT(GPTConfig.preset("tiny", vocab_size=32, context_length=16, n_layer=2, n_embd=16))
    before = fingerprint(dict(model.named_parameters()))
    run = make(tmp_path, model=model, steps=3, precision="bf16").fit()
    assert run.precision == "bf16" and run.skipped == 0 and math.isfinite(run.loss)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and fingerprint(dict(model.named_parameters())) != before


def test_sweep_removes_only_leftovers(tmp_path):
    for name in (".step-000005.abc", "step-000005", "recordings"): (tmp_path/name).mkdir()
    sweep(tmp_path)
    assert sorted(o.name for o in tmp_path.iterdir()) == ["recordings", "step-000005"]
