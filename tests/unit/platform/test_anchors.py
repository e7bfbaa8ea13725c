"""Anchor files: what was signed is believed, nothing else."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

from dunwell_server.platform.anchors import Anchor, AnchorStore
from dunwell_server.platform.keys import Keys

ROOT = b"a root secret of 32 characters or more"
FIRM = uuid.UUID(int=7)


def anchor(seq: int, firm: uuid.UUID = FIRM) -> Anchor:
    return Anchor(firm, seq, bytes([seq]) * 32, datetime(2026, 3, 1, 12, tzinfo=UTC))


def test_anchors_are_read_back_in_order(tmp_path: Path) -> None:
    store = AnchorStore(tmp_path / "anchors", Keys(ROOT))
    assert store.read(FIRM).last is None
    for seq in (3, 9):
        store.append(anchor(seq))
    assert store.read(FIRM).anchors == (anchor(3), anchor(9))
    assert store.read(uuid.UUID(int=8)).anchors == ()


def test_a_line_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    store = AnchorStore(tmp_path, Keys(ROOT))
    store.append(anchor(3))
    store.append(anchor(9))
    path = tmp_path / f"{FIRM}.jsonl"
    first, second = path.read_text().splitlines()
    forged = {**json.loads(second), "seq": 4}
    path.write_text("\n".join([first, json.dumps(forged), "no json", "{}"]) + "\n")
    found = store.read(FIRM)
    assert found.anchors == (anchor(3),)
    assert found.invalid_lines == 3


def test_another_firms_anchor_is_not_believed(tmp_path: Path) -> None:
    store = AnchorStore(tmp_path, Keys(ROOT))
    store.append(anchor(3))
    other = uuid.UUID(int=8)
    (tmp_path / f"{FIRM}.jsonl").rename(tmp_path / f"{other}.jsonl")
    assert store.read(other).anchors == ()
    assert store.read(other).invalid_lines == 1


def test_anchors_survive_a_new_root_secret_that_names_the_old_one(tmp_path: Path) -> None:
    AnchorStore(tmp_path, Keys(ROOT)).append(anchor(3))
    new = b"another root secret, 32 characters or so"
    assert AnchorStore(tmp_path, Keys(new, (ROOT,))).read(FIRM).last == anchor(3)
    assert AnchorStore(tmp_path, Keys(new)).read(FIRM).last is None
