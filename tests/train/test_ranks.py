"""Several processes: the run is the one that a single process makes, and its last words are one process's."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sky4.config import config_to_dict
from sky4.distributed.ranks import ALONE, Ranks
from sky4.train.batches import BatchSource
from sky4.train.checkpoints import load_checkpoint
from sky4.train.ranks import share_of
from sky4.train.settings import JointSettings
from sky4.train.trainer import train
from tests.train.nano import CHANNELS, encode, make_model

Make = Callable[..., JointSettings]

WORKER = """
from pathlib import Path
import torch
from sky4.train.batches import BatchSource
from sky4.distributed.ranks import joined
from sky4.train.settings import read_settings
from sky4.train.trainer import train
from tests.train.nano import CHANNELS, encode, make_model
settings = read_settings(Path({config!r}))
with joined() as ranks:
    train(settings, make_model(settings), BatchSource(settings), encode, torch.zeros(1, CHANNELS, 4, 4, 4), ranks=ranks)
"""


def test_two_processes_train_what_one_does(make_settings: Make, tmp_path: Path) -> None:
    changes = {"batch": {"tokens": 400, "largest": 5, "text_tokens": 8, "parts": 2}, "schedule": {"samples": 30}}
    alone = make_settings(**changes, run__folder=str(tmp_path / "alone"))
    one = train(
        alone, make_model(alone), BatchSource(alone), encode, torch.zeros(1, CHANNELS, 4, 4, 4), say=lambda _: None
    )
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(config_to_dict(make_settings(**changes, run__folder=str(tmp_path / "both")))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER.format(config=str(config))],
            cwd=Path(__file__).parents[2],
            env=os.environ | meeting | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert [bool(words) for words in said] == [True, False]
    ours = load_checkpoint(one.checkpoint)
    theirs = load_checkpoint(tmp_path / "both" / "checkpoints" / one.checkpoint.name)
    assert ours.state["position"] == theirs.state["position"]
    for name, weight in ours.model.items():
        torch.testing.assert_close(theirs.model[name], weight, rtol=1e-4, atol=1e-5)
    logs = [json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1]) for run in ("alone", "both")]
    assert logs[0]["loss/video"] == pytest.approx(logs[1]["loss/video"], rel=1e-4)


def test_parts_that_cannot_be_shared_out_are_refused() -> None:
    assert list(share_of(ALONE, [1, 2, 3])) == [1, 2, 3]
    assert list(share_of(Ranks(1, 2), [1, 2, 3, 4])) == [2, 4]
    with pytest.raises(ValueError, match=r"batch.parts is 3, which 2 processes cannot share"):
        share_of(Ranks(0, 2), [1, 2, 3])
