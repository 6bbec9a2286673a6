"Every record of evidence is whole, says what its numbers say, and belongs to a page that can write it again."
import json

import pytest
from conftest import ROOT

from brainlab.bench.claims import keep_claim
from brainlab.core.settings import settings

HOME = ROOT/"nbs"/"evidence"
RECORDS = sorted((HOME/"records").glob("*.json"))


def test_there_are_records(): assert {"adaptive_computation", "adaptive_computation_difficulty"} <= {p.stem for p in RECORDS}


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_record(path):
    rec = json.loads(path.read_text(encoding="utf-8"))
    assert rec["claim"] == path.stem and (ROOT/rec["notebook"]).is_file()
    cells = json.loads((ROOT/rec["notebook"]).read_text(encoding="utf-8"))["cells"]
    assert any(f'claim("{path.stem}"' in "".join(c["source"]) for c in cells), "its page does not write it"
    for o in (rec, *rec["controls"].values()):
        lo, hi = o["interval"]
        assert lo - 1e-6 <= o["value"] <= hi + 1e-6
    assert rec["better"] in ("high", "low")
    sign = 1 if rec["better"] == "high" else -1
    lo, hi = sorted(sign * v for v in rec["interval"])
    assert rec["verdict"] == ("supported" if lo >= sign * rec["bar"] else "not supported" if hi < sign * rec["bar"] else "inconclusive")
    assert len(rec["seeds"]) >= 3 and rec["budget"] and rec["hardware"] and rec["versions"] and rec["commit"] and rec["date"]


def test_a_rehearsal_never_replaces_a_result(monkeypatch, tmp_path):
    class House: root = tmp_path
    monkeypatch.setattr("brainlab.bench.claims.settings", lambda: House)
    real, toy = keep_claim(dict(claim="a", value=1)), keep_claim(dict(claim="a", value=2), smoke=True)
    assert real != toy and json.loads(real.read_text(encoding="utf-8"))["value"] == 1
    assert "nbs/evidence/records/smoke/" in (settings().root/".gitignore").read_text(encoding="utf-8").splitlines()
