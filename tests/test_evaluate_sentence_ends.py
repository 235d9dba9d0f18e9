"""Ends of turns by the marks that are written: what is counted, on pauses made by hand."""

import json

import numpy as np
import pytest

from tools.evaluate_sentence_ends import Scored, chosen, describe


def test_marks_that_stand_at_ends_alone_need_no_long_silence():
    holds = [Scored(0.25 + 0.01 * n, 0.0, None) for n in range(50)]
    ends = [Scored(np.inf, 0.9, 0.01 * n) for n in range(50)]
    table, points = describe(holds + ends)
    silence, marks = dict(points["silence"]), dict(points["marks"])
    assert marks[0.2] == 0 and silence[0.2] == 1
    assert silence[0.5] == pytest.approx(np.mean([s.seconds > 0.5 for s in holds]))
    assert "marks at 100 % of the ends and 0 % of the holds; AUC 1.00" in table
    assert "mark said 245 ms after" in table


def test_recordings_are_drawn_of_sources_that_are_whole_sentences(tmp_path):
    rows = [{"audio": f"{s}{n}", "source": s} for s in ("common_voice_x", "libri") for n in "012"]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert len(found := chosen(path, 2, 0)) == 2 and found == chosen(path, 2, 0)
    assert {f.name for f in chosen(path, None, 0)} == {f"common_voice_x{n}" for n in "012"}
