"Runs that are stopped: by an exception at their n-th batch, or as real processes by kill -9."

import importlib
import multiprocessing
import os
import signal
import sys
import time

import torch

from masktune.models.zoo import create_model, save_model

# processes that `start` makes are copies of one that has imported these, and has computed nothing
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch._dynamo", "torchvision.transforms.v2", "masktune.methods.group_dro_jtt"]
)


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


def fit(module, data, checkpoint, out):
    "Fit `method()` of a test module on its `data()`, and leave weights and history in `out`"
    torch.set_num_threads(1)
    sys.path.insert(0, os.path.dirname(__file__))
    tests = importlib.import_module(module)
    net, bench = create_model("small_cnn", 2), getattr(tests, data)()
    m = tests.method().fit(net, bench, checkpoint=checkpoint)
    save_model(m.model_, out / "best.pt")
    save_model(m.last_, out / "last.pt")
    m.history_.to_csv(out / "history.csv")
    if hasattr(m, "group_weights_"):
        m.group_weights_.to_csv(out / "weights.csv")


def start(*what):
    "A process of its own that does `fit(*what)`"
    process = SERVER.Process(target=fit, args=what)
    process.start()
    return process


def ended(process):
    "Its exit code"
    process.join()
    return process.exitcode


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
    assert ended(start(module, data, folder / "c1", whole)) == 0
    for wait in waits:
        process, last, seen = (
            start(module, data, checkpoint, killed),
            checkpoint / "last.pt",
            None,
        )
        while process.is_alive() and (
            not last.exists() or seen is None
        ):  # let it get somewhere first
            seen = last.stat().st_mtime_ns if last.exists() else None
            time.sleep(0.02)
        time.sleep(wait)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        code = ended(process)
        assert code in (0, -signal.SIGKILL), code
    assert ended(start(module, data, checkpoint, killed)) == 0
    return whole, killed, kills
