"Row M4 of the fault matrix, and S4 for index files: a missing, old, foreign or damaged index costs time and never an answer. Before that: every kind of index against a search that sorts everything, over random operations."
import json
import os
import random
import sqlite3
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainlab.core.errors import BrainlabError, UsageError
from brainlab.memory.archive import ArchiveIndex, open_archive
from brainlab.memory.exact import ExactIndex
from brainlab.memory.index import FaissIndex, Index, open_index
from brainlab.memory.index_file import MAGIC, write_index_file

D, N = 16, 1200
WIDE = dict(ef=2 * N, nprobe=10**6)  # so wide that an approximate search finds everything
KINDS = ("exact", "flat", "hnsw", "ivf")


def unit(n, d=D, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference(known: dict, queries, k):
    "Sort everything: ids and scores [q k], equal scores by id"
    ids, keys = np.array(sorted(known), np.int64), np.array([known[i] for i in sorted(known)], np.float32).reshape(len(known), queries.shape[1])
    scores = queries @ keys.T
    order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores), axis=-1)[:, :k]
    pad = ((0, 0), (0, k - order.shape[1]))
    return np.pad(ids[order], pad, constant_values=-1), np.pad(np.take_along_axis(scores, order, 1), pad, constant_values=-np.inf)


# Every kind against the reference

# Vectors of +-1/2 in four dimensions: unit length, exact products, and ties everywhere.
SIGNS = st.lists(st.sampled_from([-.5, .5]), min_size=4, max_size=4)
IDS = st.one_of(st.integers(0, 12), st.sampled_from([2**31, 2**53 + 1, 2**62, 2**63 - 1]))
STEPS = st.one_of(st.tuples(st.just("add"), st.lists(st.tuples(IDS, SIGNS), max_size=12)),
                  st.tuples(st.just("remove"), st.lists(IDS, max_size=4)),
                  st.tuples(st.just("search"), st.tuples(st.lists(SIGNS, max_size=3), st.integers(1, 20), st.one_of(st.none(), st.lists(IDS, max_size=8)))))


def make(kind, folder, d=4):
    if kind == "archive": return ArchiveIndex(d, folder, block=5)
    return ExactIndex(d) if kind == "exact" else FaissIndex(d, kind, ef=200)


def apply(index, known, what, arg):
    "One operation on an index and on a plain dictionary"
    if what == "add":
        index.add([i for i, _ in arg], np.array([v for _, v in arg], np.float32).reshape(-1, 4))
        known.update({i: np.float32(v) for i, v in arg})
    elif what == "remove":
        if set(arg) <= set(known):
            index.remove(arg)
            for i in set(arg): del known[i]
        else:
            with pytest.raises(UsageError): index.remove(arg)
    else: compare(index, known, *arg)
    assert len(index) == len(known) and index.ids.tolist() == sorted(known)


def compare(index, known, queries, k, among):
    q = np.array(queries, np.float32).reshape(-1, 4)
    chosen = known if among is None else {i: known[i] for i in among if i in known}
    found, (ids, scores) = index.search(q, k, among), reference(chosen, q, k)
    assert found.ids.dtype == np.int64 and found.scores.dtype == np.float32 and found.ids.shape == found.scores.shape == (len(q), k)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    if index.exact or among is not None: np.testing.assert_array_equal(found.ids, ids)
    else:
        for a, s, one in zip(found.ids, found.scores, q):
            assert [i for i in a if i >= 0] == list(dict.fromkeys(i for i in a if i >= 0)), "an id came twice"
            for i, v in zip(a, s): assert i < 0 or abs(one @ known[i] - v) < 1e-5


@pytest.mark.parametrize("kind", (*KINDS, "archive"))
def test_random_operations(kind, tmp_path_factory):
    home = tmp_path_factory.mktemp("archive")

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=12))
    def run(steps):
        index, known = make(kind, home), {}
        for what, arg in steps: apply(index, known, what, arg)
    run()


@pytest.mark.slow
@pytest.mark.parametrize("kind", (*KINDS, "archive"))
def test_many_random_operations(kind, tmp_path_factory):
    home = tmp_path_factory.mktemp("archive")

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=30))
    def run(steps):
        index, known = make(kind, home), {}
        for what, arg in steps: apply(index, known, what, arg)
    run()


@pytest.mark.parametrize("kind", (*KINDS, "archive"))
def test_what_is_refused_changes_nothing(kind, tmp_path):
    index = make(kind, tmp_path)
    index.add([1], [[1, 0, 0, 0]])
    bad = [lambda: index.add([2], [[np.nan, 0, 0, 0]]), lambda: index.add([2], [[1, 0, 0]]), lambda: index.add([2, 3], [[1, 0, 0, 0]]), lambda: index.add([-1], [[1, 0, 0, 0]]),
           lambda: index.add([2**63], [[1, 0, 0, 0]]), lambda: index.add([1.5], [[1, 0, 0, 0]]), lambda: index.remove([1, 7]), lambda: index.search([[np.nan] * 4], 1),
           lambda: index.search([[0, 0, 0, 0]], 1), lambda: index.search([[1, 0, 0]], 1), lambda: index.search([1, 0, 0, 0], 1), lambda: index.search([[1, 0, 0, 0]], 0), lambda: index.search([[np.inf, 0, 0, 0]], 1)]
    for f in bad:
        with pytest.raises(UsageError): f()
    assert index.ids.tolist() == [1] and index.search([[1, 0, 0, 0]], 1).ids.tolist() == [[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_an_index(kind):
    index, errors, rows = FaissIndex(D, kind, ef=400) if kind != "exact" else ExactIndex(D), [], unit(400)

    def write(first):
        for i in range(first, first + 100):
            index.add([i], rows[i:i + 1])
            if index.search(rows[i:i + 1], 1).ids[0, 0] != i: errors.append(f"{i} was lost")
            if i % 5 == 0: index.remove([i])

    def look():
        for _ in range(60):
            found = index.search(rows[:3], 20).ids
            if any(len(set(r[r >= 0])) != (r >= 0).sum() for r in found): errors.append("an id came twice")

    threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)] + [threading.Thread(target=look) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors and len(index) == 320


# M4

class Stand:
    "What an index needs of a store"
    identity, embedder, d, changes = "0b5e-store", "light/1", D, 7

    def __init__(self, folder, seed=0):
        self.folder, self.all, self.at = folder, unit(N, seed=seed), np.random.default_rng(seed).permutation(10 * N)[:N]

    def keys(self, tier=None): return self.at, self.all


def other_files(folder):
    "Whole files of other kinds"
    with zipfile.ZipFile(folder/"z", "w") as z: z.writestr("a", "b" * 1000)
    db = sqlite3.connect(folder/"db"); db.execute("create table t(x)"); db.commit(); db.close()
    np.save(folder/"n.npy", np.zeros((N, D), np.float32))
    import faiss
    raw = faiss.IndexFlatIP(D); raw.add(unit(N)); faiss.write_index(raw, str(folder/"raw"))
    files = {n: (folder/n).read_bytes() for n in ("z", "db", "n.npy", "raw")}
    return files | dict(empty=b"", json=b'{"kind": "flat"}', text="기억".encode() * 500, pickle=b"\x80\x04\x95\x00", magic=MAGIC, zeros=bytes(50_000), ones=b"\xff" * 50_000)


def damages(data, n, seed):
    "Bit flips, cuts, holes, swaps and additions"
    rng = random.Random(seed)
    for i in range(n):
        at, size = rng.randrange(len(data)), rng.randrange(1, 200)
        if i % 5 == 0: yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]
        elif i % 5 == 1: yield data[:at]
        elif i % 5 == 2: yield data[:at] + bytes(b ^ 255 for b in data[at:at + size]) + data[at + size:]
        elif i % 5 == 3: yield data[:at] + rng.randbytes(size) + data[at:]
        else: early = at % 600; yield data[:early] + bytes([data[early] ^ 1 << rng.randrange(8)]) + data[early + 1:]  # the header


def survives(store, kind, data, why="rebuilt"):
    "Put a file in the place of the index, open, and compare with looking at everything"
    path = store.folder/"all.index"
    path.write_bytes(data)
    index = open_index(store, kind, **(WIDE if kind != "exact" else {}))
    assert index.origin.startswith(why), index.origin
    assert_exact(index, store)
    assert Index.load(path, f"{store.identity}/{store.embedder}/{store.d}/all", store.changes).kind == kind  # a good one is in its place again


def assert_exact(index, store):
    queries = unit(8, seed=99)
    found, (ids, scores) = index.search(queries, 10), reference(dict(zip(store.at.tolist(), store.all)), queries, 10)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (found.ids == ids).mean() > .97  # scores that are equal up to rounding may change places


@pytest.fixture
def opened(tmp_path, request):
    "A store, a kind, and the bytes of its sound index file"
    store = Stand(tmp_path)
    assert open_index(store, request.param, **(WIDE if request.param != "exact" else {})).origin.startswith("rebuilt")
    return store, request.param, (tmp_path/"all.index").read_bytes()


@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_sound_missing_stale_foreign(opened):
    store, kind, data = opened
    survives(store, kind, data, "loaded")
    (store.folder/"all.index").unlink()
    assert "does not exist" in open_index(store, kind, **(WIDE if kind != "exact" else {})).origin
    for name, value in dict(identity="other", embedder="bge-m3", at=np.arange(N)).items():
        was = getattr(store, name)
        setattr(store, name, value); survives(store, kind, data); setattr(store, name, was)
    store.changes = 8
    survives(store, kind, data, "brought up to date")
    store.all = store.all.copy(); store.all[:20] = unit(20, seed=5); store.at = store.at.copy(); store.at[30] = 10**9
    survives(store, kind, data, "brought up to date")
    store.all = unit(N, seed=6); survives(store, kind, data)
    other = Stand(store.folder, 3); other.d, other.all = 24, unit(N, 24)
    assert open_index(other, kind, path=store.folder/"all.index").origin.startswith("rebuilt")


@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_damaged(opened):
    store, kind, data = opened
    for bad in damages(data, 10, seed=len(data)): survives(store, kind, bad)


@pytest.mark.slow
@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_damaged_in_full(opened):
    store, kind, data = opened
    for bad in damages(data, 75, seed=1): survives(store, kind, bad)


@pytest.mark.parametrize("opened", ["flat"], indirect=True)
def test_other_files(opened, tmp_path_factory):
    store, kind, data = opened
    for bad in other_files(tmp_path_factory.mktemp("others")).values(): survives(store, kind, bad)


@pytest.mark.parametrize("what", ["folder", "pipe", "dangling", "loop"])
def test_no_file_at_all(what, tmp_path):
    store, path = Stand(tmp_path), tmp_path/"all.index"
    dict(folder=path.mkdir, pipe=lambda: os.mkfifo(path), dangling=lambda: path.symlink_to("nowhere"), loop=lambda: path.symlink_to(path))[what]()
    index = open_index(store, "flat")
    assert index.origin.startswith("rebuilt")
    assert_exact(index, store)


@pytest.mark.parametrize("change", [dict(kind="unknown"), dict(kind=None), dict(kind=[1]), dict(d=-1), dict(d="16"), dict(n=3), dict(n=None), dict(kind="hnsw"), dict(kind="ivf", how=7), dict(kind="hnsw", how={}, trained="x")], ids=str)
def test_nonsense_with_a_fitting_checksum(change, tmp_path):
    store = Stand(tmp_path)
    header = dict(kind="flat", d=D, n=N, identity=f"{store.identity}/{store.embedder}/{D}/all", changes=7) | change
    write_index_file(tmp_path/"all.index", header, dict(ids=store.at, rows=store.all))
    survives(store, "flat", (tmp_path/"all.index").read_bytes())


@pytest.mark.parametrize("ids", [np.zeros(N, np.int64), np.full(N, -5), np.arange(N - 1), np.arange(N, dtype=np.float32), np.arange(2 * N).reshape(N, 2)], ids=["equal", "negative", "short", "float", "two columns"])
def test_wrong_ids_with_a_fitting_checksum(ids, tmp_path):
    store = Stand(tmp_path)
    write_index_file(tmp_path/"all.index", dict(kind="flat", d=D, n=N, identity=f"{store.identity}/{store.embedder}/{D}/all", changes=7), dict(ids=ids, rows=store.all))
    survives(store, "flat", (tmp_path/"all.index").read_bytes())


# S4

def header_of(text, length=None, size=0): return MAGIC + bytes(32) + (len(text) if length is None else length).to_bytes(4, "little") + text + bytes(size)


def table(*rows, **more): return json.dumps(dict(kind="flat", d=D, n=N, identity=f"0b5e-store/light/1/{D}/all", changes=7, arrays=rows) | more).encode()


BOMBS = dict(long_header=header_of(b"", 2**32 - 1), deep=header_of(b"[" * 60_000), digits=header_of(b'{"d": ' + b"9" * 60_000 + b"}"), huge=header_of(table(["ids", "int64", [2**47, 2**47]])),
             negative=header_of(table(["ids", "int8", [-8]])), objects=header_of(table(["ids", "object", [1]]), size=8), many=header_of(table(*[["a", "int8", [0]]] * 3000)), cancelled=header_of(table(["a", "int8", [2**47]], ["b", "int8", [-2**47]])))


@pytest.mark.parametrize("name", [*BOMBS, "hollow"])
def test_bombs(name, tmp_path):
    store, path = Stand(tmp_path), tmp_path/"all.index"
    if name == "hollow":
        with open(path, "wb") as f: f.write(header_of(table(["ids", "int8", [2**40]]))); f.truncate(f.tell() + 2**40)
    else: path.write_bytes(BOMBS[name])
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(BrainlabError): Index.load(path, f"0b5e-store/light/1/{D}/all", 7, most=10**8)
    assert time.perf_counter() - start < 5 and tracemalloc.get_traced_memory()[1] < 2**29
    tracemalloc.stop()
    assert open_index(store, "flat").origin.startswith("rebuilt")


# The archive

@pytest.mark.parametrize("name", ["archive.index", "archive.int8"])
def test_damaged_archive(name, tmp_path):
    store = Stand(tmp_path)
    want = open_archive(store).search(unit(8, seed=99), 10).ids
    path = tmp_path/"archive"/name
    whole = path.read_bytes()
    used = whole[:N * D] if name == "archive.int8" else whole  # behind the rows there is room for more
    for bad in damages(used, 10, seed=2):
        path.write_bytes(bad)
        again = open_archive(store)
        assert again.origin.startswith("rebuilt")
        np.testing.assert_array_equal(again.search(unit(8, seed=99), 10).ids, want)
    assert open_archive(store).origin == "loaded"


def test_archive_finds_what_exact_search_finds(tmp_path):
    store = Stand(tmp_path)
    queries, archive = unit(50, seed=98), open_archive(store)
    ids, _ = reference(dict(zip(store.at.tolist(), store.all)), queries, 10)
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(archive.search(queries, 10).ids.tolist(), ids.tolist())]) > .95
    assert archive.bytes["disk"] * 4 == archive.bytes["float32"]


def test_folder_that_cannot_be_written(tmp_path):
    blocked = tmp_path/"file"
    blocked.write_text("no folder")
    store = Stand(blocked)
    assert_exact(open_index(store, "flat"), store)
    with pytest.raises(BrainlabError): open_archive(store)
    assert Path(blocked).read_text() == "no folder"
