"""Rows M1 and M2 of the fault matrix, and S1 and S3 for the memory store: what was acknowledged is there, what was deleted is not.

M1 kills a process with signal 9 while it writes or copies. M2 records every write, sync, truncation and deletion that SQLite asks of the
file system, and builds from that what a disk may hold after the power was cut at any point: all that was synced, and of the rest any
sectors. Two controls, with `synchronous` NORMAL and OFF, must lose something in the same test. SQLite's own layer for custom file
systems has no shared memory, so the traced run keeps the file to itself (`locking_mode=EXCLUSIVE`: the index of the log lies in the
process); the bytes that go to the disk are the same. SQLite syncs the folder with the first sync of a log or journal that it has opened:
with that the names in it are durable, new ones and deleted ones; until then a deletion may or may not have happened."""
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing
from dataclasses import replace

import apsw
import numpy as np
import pytest

from brainlab.core.errors import BrainlabError, IOFault, Locked, UsageError
from brainlab.memory import database, store as module
from brainlab.memory.items import Item
from brainlab.memory.store import Store

D = 8
# Workers are forked from a clean process that knows the store and nothing heavy.
workers = multiprocessing.get_context("forkserver")
workers.set_forkserver_preload(["apsw", "numpy", "numpy.random", "pytest", "brainlab.memory.store"])


def key(i):
    "A unit vector that tells `i`"
    k = np.random.default_rng(i).normal(size=D).astype(np.float32)
    return k/np.linalg.norm(k)


def item(name, n, **kw): return Item(f"{name} remembers {n}", f"value {n}" * (n % 50), key(n), **kw)


def test_the_store_starts_without_torch():
    "A child of M1 starts in a moment; so does a command that only looks into a memory"
    code = "import sys; from brainlab.memory.store import Store; print([o for o in ('torch', 'faiss', 'apsw', 'IPython') if o in sys.modules])"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert r.stdout.strip() == "[]", r.stdout + r.stderr


# M1: kill -9

def write_until_killed(folder, seed, ack, copying):
    "Add, change and forget; after each acknowledgement a line goes to the parent"
    rng, ids = random.Random(seed), []
    store = Store(folder, d=D, embedder="toy", batch=16)
    if copying: threading.Thread(target=copy_all_the_time, args=(store, folder), daemon=True).start()
    def tell(what, ids): os.write(ack, (json.dumps([what, ids]) + "\n").encode())
    for n in range(10**6):
        some = [item(seed, 1000 * n + i) for i in range(rng.choice([1, 1, 3, 40]))]
        added = store.add(some)
        added.add_done_callback(lambda f: tell("added", f.result()))
        if rng.random() < .3: ids += added.result()
        if ids and rng.random() < .3: store.update(rng.choice(ids), "used", "why not", uses=lambda n: n + 1)
        if ids and rng.random() < .2:
            gone = ids.pop(rng.randrange(len(ids)))
            tell("deleting", [gone])
            store.delete([gone]).add_done_callback(lambda f, gone=gone: tell("deleted", [gone]))
        if rng.random() < .05: store.flush()


def copy_all_the_time(store, folder):
    "Snapshots one after the other"
    for n in range(10**6): store.snapshot(f"{folder}-copy{n}-{os.getpid()}")


def killed(folder, seed, copying):
    "One life of a process that writes until it is killed; what it acknowledged"
    here, there = socket.socketpair()
    with here, there:
        p = workers.Process(target=_child, args=(str(folder), seed, there, copying))
        p.start(); there.close()
        first = here.recv(65536)
        assert first, "the process did not begin to write"
        stop = time.monotonic() + 60
        while copying and seed == 0 and not [*folder.parent.glob(f"{folder.name}-copy*")] and time.monotonic() < stop: time.sleep(.01) # one copy at least is whole
        threading.Timer(random.Random(seed).random() * .15, os.kill, (p.pid, signal.SIGKILL)).start()
        parts = [first]
        while part := here.recv(65536): parts.append(part)
        p.join(30)
    assert p.exitcode == -signal.SIGKILL
    lines = b"".join(parts).split(b"\n")[:-1] # a line that was cut was not acknowledged
    return [json.loads(o) for o in lines]


def _child(folder, seed, sock, copying): write_until_killed(folder, seed, sock.fileno(), copying)


def survive_kills(folder, kills, copying):
    "Kill a writer again and again on one folder; whatever was acknowledged in any life is there at the end of each"
    added, deleting, deleted, seen = set(), set(), set(), set()
    for seed in range(kills):
        for what, ids in killed(folder, seed, copying): {"added": added, "deleting": deleting, "deleted": deleted}[what].update(ids)
        with Store(folder, d=D, embedder="toy") as store:
            there = {*store.ids().tolist()}; seen |= there | deleting
            assert added - deleting <= there, "an acknowledged item is lost"
            assert not deleted & there, "a forgotten item has come back"
            assert store.check() == []
            for o in store.get(sorted(added - deleting)[-5:]): assert o.text.split()[1] == "remembers" and np.array_equal(o.key, key(int(o.text.split()[2])))
    copies = [*folder.parent.glob(f"{folder.name}-copy*")]
    for copy in copies: # whole, or not there under this name
        with Store(copy, read_only=True) as store: assert store.check() == [] and {*store.ids().tolist()} <= seen
    assert len(added) > kills
    return len(added), len(copies)


@pytest.mark.parametrize("copying, kills", [(False, 20), (True, 10)])
def test_kill(tmp_path, copying, kills):
    added, copies = survive_kills(tmp_path/"mind", kills, copying)
    assert not copying or copies


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("copying, kills", [(False, 20), (True, 10)])
def test_kill_full(tmp_path, copying, kills, part): survive_kills(tmp_path/"mind", kills, copying)


def test_a_store_that_does_not_wait_would_be_noticed(tmp_path, monkeypatch):
    "The control of M1: an acknowledgement before the commit loses items"
    with Store(tmp_path/"mind") as store:
        honest = Store._commit
        monkeypatch.setattr(Store, "_commit", lambda self, calls: [o.future.set_result([1]) for o in calls])
        told = store.add([Item("never written")]).result()
        monkeypatch.setattr(Store, "_commit", honest)
        assert not {*told} <= {*store.ids().tolist()}


# M2: power cut

class Trace(apsw.VFS):
    "A file system that notes what is asked of it"
    def __init__(self): self.log = []; super().__init__("trace", "")

    def xOpen(self, name, flags):
        file = TracedFile(self.log, name, flags)
        self.log.append(("open", file.name))
        return file

    def xDelete(self, name, sync):
        self.log.append(("delete", os.path.basename(name)))
        return super().xDelete(name, sync)


class TracedFile(apsw.VFSFile):
    def __init__(self, log, name, flags):
        self.log, self.name = log, os.path.basename(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary")
        super().__init__("", name, flags)

    def xWrite(self, data, at): self.log.append(("write", self.name, at, bytes(data))); return super().xWrite(data, at)
    def xTruncate(self, n): self.log.append(("truncate", self.name, n)); return super().xTruncate(n)
    def xSync(self, flags): self.log.append(("sync", self.name)); return super().xSync(flags)


@pytest.fixture
def trace(monkeypatch):
    "Every store in this test lies on a traced file system"
    vfs = Trace()
    monkeypatch.setattr(database, "_vfs", "trace")
    monkeypatch.setitem(database._settings, "locking_mode", "exclusive")
    yield vfs.log
    vfs.unregister()


def live(folder, log, seed, steps=60):
    "A life with short logs, long batches, deletions, flushes; acknowledgements stand in the trace where they were given"
    rng, ids = random.Random(seed), []
    with Store(folder, d=D, embedder="toy", batch=8) as store:
        for n in range(steps):
            added = store.add([item(seed, 100 * n + i) for i in range(rng.choice([1, 1, 2, 6]))])
            added.add_done_callback(lambda f: log.append(("added", f.result())))
            if rng.random() < .5: ids += added.result()
            if ids and rng.random() < .3: store.update(rng.choice(ids), "used", "a note", uses=lambda n: n + 1)
            if len(ids) > 3 and rng.random() < .15:
                gone = ids.pop(rng.randrange(len(ids)))
                log.append(("deleting", [gone]))
                store.delete([gone]).result()
            if rng.random() < .05: store.flush()


SECTOR = 512

def after_power_cut(log, cut, rng, how):
    "Bytes of each file when the power fails before operation `cut`: all that was synced, and of the rest what `how` says"
    files, waiting, fresh = {}, {}, set()
    for op, name, *more in [o for o in log[:cut] if o[0] in ("open", "write", "truncate", "sync", "delete")]:
        if op == "open": fresh.add(name)
        elif op != "sync": waiting.setdefault(name, []).append((op, *more))
        else:
            for o in waiting.pop(name, []): apply(files, name, *o)
            if name in fresh and name != "memory.sqlite": # SQLite syncs the folder, too
                for other in waiting:
                    gone = max((i for i, o in enumerate(waiting[other]) if o[0] == "delete"), default=-1)
                    for o in waiting[other][:gone+1]: apply(files, other, *o)
                    waiting[other] = waiting[other][gone+1:]
            fresh.discard(name)
    for name, ops in waiting.items():
        for o in ops:
            if how == "kept" or how == "torn" and rng.random() < .7: apply(files, name, *o, rng=rng if how == "torn" else None)
    return files


def apply(files, name, op, *more, rng=None):
    "Do an operation on a file; with `rng` a write reaches the disk sector by sector, or not"
    if op == "delete": files.pop(name, None); return
    data = files.setdefault(name, bytearray())
    if op == "truncate": del data[more[0]:]; return
    at, new = more
    for i in range(at - at % SECTOR, at + len(new), SECTOR):
        lo, hi = max(i, at), min(i + SECTOR, at + len(new))
        if rng and rng.random() < .3: continue
        if len(data) < hi: data.extend(bytes(hi - len(data)))
        data[lo:hi] = new[lo-at:hi-at]


def lost_after(log, cut, seed, folder, how):
    "Acknowledged items that are not there after a power cut, and whether the file is sound; SQLite alone looks"
    shutil.rmtree(folder, ignore_errors=True); folder.mkdir()
    for name, data in after_power_cut(log, cut, random.Random(seed), how).items(): (folder/name).write_bytes(data)
    told = {i for o in log[:cut] if o[0] == "added" for i in o[1]}
    may_go = {i for o in log[:cut] if o[0] == "deleting" for i in o[1]}
    try:
        with closing(apsw.Connection(str(folder/"memory.sqlite"))) as db:
            sound = db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            there = {o for o, in db.execute("SELECT i.id FROM items i JOIN content c ON c.id = i.content WHERE c.text LIKE '%remembers%' AND length(c.key) = 4 * ?", (D,))} if told else set()
    except apsw.Error: return told, False
    return told - may_go - there, sound


def power_cuts(trace, tmp_path, monkeypatch, cases, seed=0, **settings):
    "Cases with lost items or an unsound file"
    for k, v in settings.items(): monkeypatch.setitem(database._settings, k, v)
    monkeypatch.setattr(module, "_pages", 12)
    trace.clear()
    live(tmp_path/f"life{seed}{settings}", trace, seed)
    log, rng, bad = [*trace], random.Random(seed), []
    for case in range(cases):
        cut, how = rng.randrange(len(log) + 1), ("torn", "torn", "dropped", "kept")[case % 4]
        lost, sound = lost_after(log, cut, case, tmp_path/"disk", how)
        if lost or not sound: bad.append((cut, how, sorted(lost), sound))
    return log, bad


def test_power_cut(trace, tmp_path, monkeypatch):
    "Nothing that was acknowledged is lost; less careful settings lose something, so the test can tell"
    log, bad = power_cuts(trace, tmp_path, monkeypatch, 80)
    kinds = {o[0] for o in log}
    assert {"write", "sync", "truncate", "delete", "added", "deleting"} <= kinds and {o[1] for o in log if o[0] == "write"} >= {"memory.sqlite", "memory.sqlite-wal"}
    assert not bad, bad[:3]
    for careless in ("normal", "off"):
        log, bad = power_cuts(trace, tmp_path, monkeypatch, 80, synchronous=careless)
        assert any(lost for _, _, lost, _ in bad), f"synchronous={careless} lost nothing"


def test_the_store_opens_after_a_power_cut(trace, tmp_path, monkeypatch):
    "Not only SQLite: the store itself goes on where it stood"
    log, _ = power_cuts(trace, tmp_path, monkeypatch, 0, seed=1)
    monkeypatch.setattr(database, "_vfs", None)
    monkeypatch.setitem(database._settings, "locking_mode", "normal")
    first = next(i for i, o in enumerate(log) if o[0] == "added")
    for case, cut in enumerate(range(first + 1, len(log), len(log)//12)):
        lost_after(log, cut, case, tmp_path/"disk", "torn")
        with Store(tmp_path/"disk", d=D, embedder="toy") as store:
            assert store.check() == []
            new = store.add([item("after", 1)]).result()
            assert store.get(new)[0].text == "after remembers 1"


@pytest.mark.parametrize("cut", range(0, 24, 3))
def test_power_cut_while_the_file_is_made(trace, tmp_path, cut, monkeypatch):
    "A half-made file is an empty one"
    Store(tmp_path/"mind", d=D).close()
    log = [*trace]
    monkeypatch.setattr(database, "_vfs", None)
    monkeypatch.setitem(database._settings, "locking_mode", "normal")
    lost_after(log, min(cut, len(log)), cut, tmp_path/"disk", "torn")
    with Store(tmp_path/"disk", d=D) as store: assert len(store) == 0 and store.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_power_cut_full(trace, tmp_path, monkeypatch, seed):
    log, bad = power_cuts(trace, tmp_path, monkeypatch, 60, seed)
    assert not bad, bad[:3]


# Disk full, I/O errors, a folder that cannot be written

class Failing(apsw.VFS):
    "A file system on which writing fails when it is told to"
    def __init__(self): self.error = None; super().__init__("failing", "")
    def xOpen(self, name, flags): return FailingFile(self, name, flags)


class FailingFile(apsw.VFSFile):
    def __init__(self, vfs, name, flags): self.vfs = vfs; super().__init__("", name, flags)

    def xWrite(self, data, at):
        if self.vfs.error and self.vfs.where == "write": raise self.vfs.error
        return super().xWrite(data, at)

    def xSync(self, flags):
        if self.vfs.error and self.vfs.where == "sync": raise self.vfs.error
        return super().xSync(flags)


@pytest.mark.parametrize("where, error, says", [("write", apsw.FullError, "the disk is full"), ("write", apsw.IOError, "Could not write"), ("write", apsw.ReadOnlyError, "Could not write"), ("sync", apsw.IOError, "Could not write")])
def test_a_disk_that_fails_and_comes_back(tmp_path, monkeypatch, where, error, says):
    "The callers are told; what was there stays; when the disk is well again the store goes on"
    vfs = Failing()
    monkeypatch.setattr(database, "_vfs", "failing")
    monkeypatch.setitem(database._settings, "locking_mode", "exclusive")
    with Store(tmp_path/"mind", d=D) as store:
        before = store.add([item("before", 1)]).result()
        vfs.where, vfs.error = where, error("the disk says no")
        calls = [store.add([item("meanwhile", i)]) for i in range(3)] + [store.update(1, "used"), store.delete(before)]
        for o in calls:
            with pytest.raises(IOFault, match=says): o.result(30)
        with pytest.raises(IOFault): store.flush()
        vfs.error = None
        after = store.add([item("after", 2)]).result(30)
        store.flush()
    monkeypatch.setattr(database, "_vfs", None)
    monkeypatch.setitem(database._settings, "locking_mode", "normal")
    with Store(tmp_path/"mind") as store:
        assert [o.text for o in store.items()] == ["before remembers 1", "after remembers 2"] and store.ids().tolist() == before + after
        assert store.check() == [] and [o.what for o in store.biography(1)] == ["told"]
    vfs.unregister()


def test_read_only_medium(tmp_path):
    "A folder on a medium that cannot be written: refused for writing in one sentence, readable"
    with Store(tmp_path/"mind", d=D) as store: store.add([item("kept", 1)]).result()
    code = f"""
from brainlab.memory.store import Store
from brainlab.core.errors import IOFault
try: Store({str(tmp_path/'mind')!r})
except IOFault as e: print(e)
with Store({str(tmp_path/'mind')!r}, read_only=True) as s: print(len(s), s.get([1])[0].text, s.check())
"""
    folder = str(tmp_path/"mind")
    r = subprocess.run(["unshare", "-m", "--", "sh", "-c", 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && touch "$1/x" 2>/dev/null; test -e "$1/x" && exit 99; exec "$2" -c "$3"', "sh", folder, sys.executable, code], capture_output=True, text=True, timeout=60)
    if not r.stdout: pytest.skip(f"this system cannot mount a folder read-only: {r.stderr[-200:]}")
    refused, seen = r.stdout.strip().split("\n")
    assert "Read-only file system" in refused and seen == "1 kept remembers 1 []"


# Forgetting, and a log that does not grow

def raw(folder): return b"".join(o.read_bytes() for o in sorted(folder.iterdir()))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_what_was_forgotten(tmp_path, seed):
    "After delete and flush no byte of a text, a value, a note or a key stands in any file; what was kept stands there"
    rng, kept, gone = random.Random(seed), {}, []
    def words(): return f"<{rng.randrange(10**18):018}>" * rng.choice([1, 1, 5, 40, 300])
    def parts(o): return [o.text, o.value, *o.notes]
    with Store(tmp_path/"mind", d=D) as store:
        for n in range(400):
            o = Item(words(), words(), key(n))
            o.notes = []
            i = store.add([replace(o)])
            if n % 20 == 0: i.result()
            kept[n + 1] = o
            some = rng.choice(list(kept))
            if rng.random() < .4:
                note = words(); kept[some].notes.append(note)
                store.update(some, "used", note)
            if rng.random() < .3: gone += [kept[some].text]; kept[some].text = words(); store.update(some, "corrected", text=kept[some].text)
            if rng.random() < .2 and kept[some].key is not None: gone.append(kept[some].key.tobytes()); kept[some].key = None; store.update(some, "demoted", tier="archive") # its float32 key goes
            if rng.random() < .3:
                o = kept.pop(some)
                gone += parts(o) + ([o.key.tobytes()] if o.key is not None else [])
                store.delete([some])
            if n == 200: store.flush()
        store.flush()
        bytes_now = raw(tmp_path/"mind")
        left = [o for o in gone if (o if isinstance(o, bytes) else o[:20].encode()) in bytes_now]
        assert len(gone) > 200 and not left, f"{len(left)} of {len(gone)} can still be read"
        assert all(p[:20].encode() in bytes_now for o in kept.values() for p in parts(o))
        assert store.check() == [] and len(store) == len(kept)


def test_the_file_shrinks_again(tmp_path):
    with Store(tmp_path/"mind") as store:
        ids = store.add([Item("x" * 9000) for _ in range(800)]).result()
        store.flush()
        large = store.path.stat().st_size
        store.delete(ids[10:]).result()
        store.flush()
        assert store.path.stat().st_size < large/10 and len(store) == 10 and store.check() == []


def test_the_log_does_not_grow_without_bound(tmp_path, monkeypatch):
    "Not in a long session, and not when somebody reads all the time"
    monkeypatch.setattr(module, "_pages", 50)
    with Store(tmp_path/"mind") as store, Store(tmp_path/"mind", read_only=True) as other:
        store._patience, sizes, stop = 400, [], threading.Event()
        def read():
            while not stop.is_set(): len(other); sum(1 for _ in other.items())
        readers = [threading.Thread(target=read) for _ in range(2)]
        for o in readers: o.start()
        for _ in range(150):
            store.add([Item("x" * 3000) for _ in range(20)]).result()
            sizes.append((tmp_path/"mind"/"memory.sqlite-wal").stat().st_size)
        stop.set()
        for o in readers: o.join()
        assert max(sizes) < 8 * 2**20 < 150 * 20 * 3000, f"{max(sizes):,} bytes of log"


def test_a_reader_in_the_way_of_forgetting_is_named(tmp_path, monkeypatch):
    "flush says so when deleted text may still stand in the log"
    with Store(tmp_path/"mind") as store:
        store.add([Item("to be forgotten")]).result()
        with Store(tmp_path/"mind", read_only=True) as other, other._reading() as db:
            db.execute("SELECT * FROM items").fetchall()
            store.delete([1]).result()
            store._db.set_busy_timeout(50)
            with pytest.raises(Locked, match="Somebody has been reading"): store.flush()
        store.flush()
        assert b"to be forgotten" not in raw(tmp_path/"mind")


# S1, S3: hostile files and names

def strangers(folder):
    "Files of other kinds under the name of a memory"
    class Evil:
        def __reduce__(self): return os.mkdir, (str(folder.parent/"executed"),)
    yield "pickle", pickle.dumps(Evil())
    yield "npy", b"\x93NUMPY\x01\x00" + pickle.dumps(Evil())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z: z.writestr("../../escape", b"x"); z.writestr("data.pkl", pickle.dumps(Evil()))
    yield "zip", out.getvalue()
    yield "sql", b"CREATE TABLE items(id); ATTACH '" + str(folder.parent/"executed").encode() + b"' AS x;"
    yield "json", b'{"identity": "x"}'
    yield "half a header", b"SQLite format 3\0" + bytes(40)
    yield "huge page size", b"SQLite format 3\0" + b"\xff" * 84 + bytes(4000)
    yield "noise", random.Random(0).randbytes(20_000)


@pytest.mark.parametrize("n", range(8))
@pytest.mark.parametrize("read_only", [False, True])
def test_other_files_are_refused_and_not_run(tmp_path, n, read_only):
    folder = tmp_path/"mind"
    folder.mkdir()
    name, data = [*strangers(folder)][n]
    (folder/"memory.sqlite").write_bytes(data)
    with pytest.raises(BrainlabError): Store(folder, read_only=read_only)
    assert not (tmp_path/"executed").exists() and not (tmp_path/"escape").exists()
    assert (folder/"memory.sqlite").read_bytes() == data, f"{name} was changed"


HOSTILE = ["CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM items; END", "CREATE VIEW v AS SELECT load_extension('evil')", "CREATE TABLE more(a)", "ALTER TABLE items ADD COLUMN x INTEGER DEFAULT 1",
           "CREATE INDEX i ON content(text)", "DROP TABLE links", "CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE TABLE g(a, b AS (hex(zeroblob(900000000))))",
           "DROP TABLE events; CREATE VIEW events AS SELECT 1 AS id", "PRAGMA user_version = 99", "PRAGMA application_id = 7", "DELETE FROM meta", "UPDATE meta SET value = 'x' WHERE name = 'd'", "DELETE FROM meta WHERE name = 'identity'",
           "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE TABLE items(id, x CHECK(load_extension(1)))' WHERE name = 'items'",
           "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'garbage'", "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 2"]


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_memory_with_other_tables_is_refused(tmp_path, sql):
    "Code or tables that somebody added to a memory are never used"
    with Store(tmp_path/"mind", d=D) as store: store.add([item("kept", 1)]).result()
    with closing(apsw.Connection(str(tmp_path/"mind"/"memory.sqlite"))) as db: db.execute(sql)
    if "rootpage" in sql: # the tables read as they should; only a look at the pages tells
        try:
            with Store(tmp_path/"mind") as store: assert store.check()
        except BrainlabError: pass
        return
    for read_only in (False, True):
        with pytest.raises(BrainlabError): Store(tmp_path/"mind", read_only=read_only)


@pytest.mark.parametrize("name", ["memory.sqlite", "memory.sqlite-wal", "memory.sqlite-shm", "memory.sqlite-journal", "memory.lock"])
@pytest.mark.parametrize("there", [False, True])
def test_links_out_of_the_folder_are_refused(tmp_path, name, there):
    outside, folder = tmp_path/"outside", tmp_path/"mind"
    if there: outside.write_bytes(b"of somebody else")
    folder.mkdir(); (folder/name).symlink_to(outside)
    with pytest.raises(BrainlabError, match="link to another place"): Store(folder)
    assert outside.exists() == there and (not there or outside.read_bytes() == b"of somebody else")


@pytest.mark.parametrize("bad", ["a\0b", "", 7, None, b"\xff\0"])
def test_folders_that_are_none(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if bad == "": # the current folder, as everywhere
        with Store(bad) as store: assert store.folder == tmp_path.resolve()
        return
    with pytest.raises(BrainlabError): Store(bad)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["file:x?mode=memory", ":memory:", "a'b\"c; DROP TABLE items", "생각 100%", "a?b#c"])
def test_odd_names_are_only_names(tmp_path, name):
    with Store(tmp_path/name) as store: store.add([Item("x")]).result(); store.snapshot(tmp_path/f"copy of {name}")
    assert sorted(o.name for o in tmp_path.iterdir()) == sorted([name, f"copy of {name}"])
    with Store(tmp_path/name, read_only=True) as store: assert len(store) == 1


@pytest.mark.parametrize("target", ["/proc/none/mind", "a file/mind"])
def test_places_that_cannot_be_written(tmp_path, target):
    (tmp_path/"a file").write_text("x")
    with pytest.raises(BrainlabError): Store(tmp_path/target)
    with Store(tmp_path/"mind") as store, pytest.raises(BrainlabError): store.snapshot(tmp_path/target)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_never_does_more_than_say_so(tmp_path, seed):
    "Flipped bytes anywhere: an error in one sentence, a complaint of check, or no harm; never another exception"
    rng = random.Random(seed)
    with Store(tmp_path/"mind", d=D) as store: store.add([item("kept", i) for i in range(300)]).result()
    data = bytearray((tmp_path/"mind"/"memory.sqlite").read_bytes())
    for _ in range(rng.choice([1, 20, 300])): data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if seed % 3 == 0: del data[rng.randrange(len(data)):]
    (tmp_path/"mind"/"memory.sqlite").write_bytes(data)
    try:
        with Store(tmp_path/"mind") as store:
            for look in (store.check, store.keys, store.ids, lambda: [*store.items()], lambda: store.biography(1), lambda: store.snapshot(tmp_path/"copy"), lambda: store.add([item("new", 1)]).result(30), lambda: store.delete([3]).result(30)):
                try: look()
                except BrainlabError as e: assert "\n" not in str(e)
    except BrainlabError as e: assert "\n" not in str(e)


@pytest.mark.parametrize("text", ["with a \0 in it", "'); DROP TABLE items; --", "\ufeff안녕", "e\u0301 é", "🧠" * 1000, "\u202eright to left", "{{7*7}} <script>alert(1)</script>"])
def test_any_text_comes_back_as_it_was(tmp_path, text):
    with Store(tmp_path/"mind") as store: i = store.add([Item(text, text, language="ko", conversation=text[:20])]).result(); store.update(*i, text[:40], text).result()
    with Store(tmp_path/"mind") as store:
        o = store.get(i)[0]
        assert (o.text, o.value, o.conversation, store.biography(*i)[-1].note) == (text, text, text[:20], text)
        store.delete(i).result(); store.flush()
        assert len(text) < 12 or text.encode() not in raw(tmp_path/"mind")


# Processes

def test_a_second_writer_is_told(tmp_path):
    code = f"from brainlab.memory.store import Store\nfrom brainlab.core.errors import Locked\ntry: Store({str(tmp_path/'mind')!r})\nexcept Locked as e: print(e)"
    with Store(tmp_path/"mind"):
        r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert "open for writing already" in r.stdout and r.stdout.count("\n") == 1


def test_what_was_not_closed_is_written_when_python_ends(tmp_path):
    code = f"from brainlab.memory.store import Store, Item\ns = Store({str(tmp_path/'mind')!r})\nfor i in range(500): s.add([Item(str(i))])"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with Store(tmp_path/"mind") as store: assert len(store) == 500


def test_a_forked_process_is_refused(tmp_path):
    with Store(tmp_path/"mind") as store:
        store.add([Item("x")]).result()
        here, there = os.pipe()
        if not (pid := os.fork()):
            try: len(store)
            except UsageError as e: os.write(there, str(e).encode())
            finally: os._exit(0)
        os.waitpid(pid, 0)
        assert b"forked" in os.read(here, 1000) and len(store) == 1
        os.close(here); os.close(there)


def test_callbacks_may_write_and_must_not_wait(tmp_path):
    "A callback runs in the writer: it may ask for more, and is told when it would wait for itself"
    said, more = [], []
    def callback(f):
        more.append(store.add([Item("from a callback")] * 9))
        for wait in (store.flush, store.close):
            try: wait()
            except UsageError as e: said.append(str(e))
    with Store(tmp_path/"mind", batch=1) as store:
        store.add([Item("first")]).add_done_callback(callback)
        stop = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < stop: time.sleep(.01)
        assert len(said) == 2 and len(more[0].result(20)) == 9


def test_a_cancelled_call_is_not_written(tmp_path):
    with Store(tmp_path/"mind") as store:
        with store._turn: # the writer waits
            f = store.add([Item("never")])
            assert f.cancel()
        assert store.add([Item("fine")]).result() == [1] and len(store) == 1


def test_closing_wakes_those_who_wait(tmp_path):
    "Callers in a full queue are told, what was queued is written, nobody hangs"
    results = []
    store = Store(tmp_path/"mind", batch=1)
    def add():
        try:
            for _ in range(10**6): results.append(store.add([Item("x")]))
        except UsageError as e: results.append(e)
    threads = [threading.Thread(target=add) for _ in range(4)]
    for o in threads: o.start()
    time.sleep(.2); store.close()
    for o in threads: o.join(20); assert not o.is_alive()
    told = [o.result(20) for o in results if not isinstance(o, UsageError)]
    assert sum(isinstance(o, UsageError) for o in results) == 4
    with Store(tmp_path/"mind") as store: assert sorted(sum(told, [])) == store.ids().tolist()
