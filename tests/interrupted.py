"Runs that are stopped: by an exception at their n-th batch, or as real processes by kill -9."

import os
import signal
import subprocess
import sys
import time

import torch

RUN = """
import sys, torch
sys.path.insert(0, {here!r})
from {module} import {data}, method
from masktune.models.zoo import create_model, save_model
torch.set_num_threads(1)
m = method().fit(create_model("small_cnn", 2), {data}(), checkpoint=sys.argv[1])
save_model(m.model_, sys.argv[2] + "/best.pt")
save_model(m.last_, sys.argv[2] + "/last.pt")
m.history_.to_csv(sys.argv[2] + "/history.csv")
if hasattr(m, "group_weights_"):
    m.group_weights_.to_csv(sys.argv[2] + "/weights.csv")
"""


class Stop(Exception):
    pass


class Interrupted:
    "An augmentation that adds noise, and stops the run at its n-th batch"

    def __init__(self, left=None):
        self.left = left

    def __repr__(self):
        return "Interrupted()"

    def __call__(self, x, generator):
        if self.left is not None:
            self.left -= 1
        if self.left == 0:
            raise Stop
        noise = torch.randn(x.shape, generator=generator)
        return x + 0.01 * noise.to(x.device)


def start(module, data, checkpoint, out):
    "A process that fits `method()` of a test module on its `data()`, and leaves weights and history in `out`"
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN.format(here=os.path.dirname(__file__), module=module, data=data),
            checkpoint,
            out,
        ],
        env=os.environ | {"MASKTUNE_LOG": os.devnull},
    )


def whole_and_killed(module, data, folder, waits):
    "(folder of a run left alone, folder of one killed these seconds after its first checkpoints, kills)"
    whole, killed, checkpoint, kills = (
        folder / "whole",
        folder / "killed",
        folder / "c2",
        0,
    )
    for d in (whole, killed):
        d.mkdir()
    assert start(module, data, folder / "c1", whole).wait() == 0
    for wait in waits:
        process, last, seen = (
            start(module, data, checkpoint, killed),
            checkpoint / "last.pt",
            None,
        )
        while process.poll() is None and (
            not last.exists() or seen is None
        ):  # let it get somewhere first
            seen = last.stat().st_mtime_ns if last.exists() else None
            time.sleep(0.02)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert start(module, data, checkpoint, killed).wait() == 0
    return whole, killed, kills
