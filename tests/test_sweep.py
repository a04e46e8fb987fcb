"Many runs: none twice, none lost, whatever happens to one of them."

import json, os, re, signal, time

import pandas as pd
import psutil
import pytest

from masktune.runs.cli import main
from masktune.runs.reproduce import reproduce
from masktune.runs.status import run_status
from masktune.runs.sweep import sweep
from throwaway import WRITES, forked, notebook, until


def states(root):
    return run_status(root).state.value_counts().to_dict()


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Five runs on two GPUs, one of which fails and one is killed at the first try.

    (folder, notebook, what sweep returned, per run: seed, GPU, threads, start, end)"""
    tmp = tmp_path_factory.mktemp("swept")
    notes = f"""import os, time, pathlib, signal
start = time.time(); time.sleep(1.5)
if 'TWICE' in os.environ: os.close(os.open(os.environ['TWICE'] + f'/{{seed}}.once', os.O_CREAT | os.O_EXCL))
line = pathlib.Path({str(tmp)!r})/f'{{seed}}.line'
gpu, threads = os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']
line.write_text(f"{{seed}} {{gpu}} {{threads}} {{start}} {{time.time()}}")
if seed == 3: raise ValueError('three is refused')
if seed == 4 and not os.path.exists(out + '/tried'):
    open(out + '/tried', 'w')
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(9)"""
    nb = notebook(tmp / "tiny.ipynb", notes, WRITES)
    stands = sweep(
        nb,
        dict(seed=range(5)),
        dict(method="erm"),
        out=tmp / "runs",
        gpus=[4, 7],
        threads=1,
    )
    return (
        tmp,
        nb,
        stands,
        [f.read_text().split() for f in sorted(tmp.glob("*.line"))],
    )


def test_a_sweep_runs_all_and_one_that_fails_or_is_killed_stops_none(swept):
    tmp, nb, stands, lines = swept
    assert [line[0] for line in lines] == list("01234")
    assert (
        stands.state.tolist() == ["finished"] * 3 + ["failed", "stopped"]
        and stands.note[3] == "three is refused"
    )
    assert (
        stands.given.tolist() == [f"method=ERM seed={s}" for s in range(5)]
        and stands.run.str.fullmatch("tiny-[0-9a-f]{16}").all()
    )
    assert (
        run_status(tmp / "runs").set_index("run").state.to_dict()
        == stands.set_index("run").state.to_dict()
    )
    failed = tmp / "runs" / stands.run[3]
    assert (
        "Traceback" in (failed / "tiny.ipynb").read_text()
        and not (failed / "metrics.parquet").exists()
    )


def test_a_gpu_has_one_run_at_a_time_and_two_have_two(swept):
    lines = [
        (gpu, threads, float(start), float(end))
        for _, gpu, threads, start, end in swept[3]
    ]
    assert {g for g, *_ in lines} == {"4", "7"} and {t for _, t, *_ in lines} == {
        "1"
    }
    clash = [
        (a, b)
        for i, a in enumerate(lines)
        for b in lines[:i]
        if a[2] < b[3] and b[2] < a[3]
    ]
    assert clash and not [1 for a, b in clash if a[0] == b[0]]


def test_two_sweeps_at_once_share_what_is_left(swept, tmp_path, monkeypatch):
    tmp, nb, stands, _ = swept
    done = {f: f.stat().st_mtime_ns for f in (tmp / "runs").glob("*/finished.json")}
    monkeypatch.setenv(
        "TWICE", str(tmp_path)
    )  # from here on the notebook fails if it runs a second time
    two = [
        forked(
            sweep,
            nb,
            dict(seed=[0, 4, 4, 6, 7]),
            dict(method="ERM"),
            out=tmp / "runs",
            gpus=[4],
            threads=1,
            said=tmp_path / f"said{i}",
        )
        for i in range(2)
    ]
    for p in two:
        p.join(120)
    said = [(tmp_path / f"said{i}").read_text() for i in range(2)]
    assert (
        run_status(tmp / "runs")
        .query("given != 'method=ERM seed=3'")
        .state.tolist()
        == ["finished"] * 6
    ), said
    assert (
        sorted(f.name for f in tmp_path.glob("*.once"))
        == ["4.once", "6.once", "7.once"]
        and sum(s.count(": finished") for s in said) == 3
    )
    assert all(
        "4 runs in" in s and "1 of them finished, 3 to do" in s for s in said
    ) and all(f.stat().st_mtime_ns == t for f, t in done.items())


@pytest.mark.parametrize(
    "grid,options,says",
    [
        (dict(sed=[1]), {}, "Did you mean 'seed'"),
        (dict(seed=[0, 1, "two"]), {}, "seed='two' must be a whole number"),
        (dict(method=["ERM", "MaskTun"]), {}, "Did you mean 'MaskTune'"),
        (dict(method="ERM"), {}, "method='ERM' must be a list of values"),
        (
            dict(seed=[1]),
            dict(given=dict(seed=2)),
            "seed is in the grid and given as well",
        ),
        (dict(seed=[1]), dict(on="slrm"), "Did you mean 'slurm'"),
        (dict(seed=[1]), dict(on="slurm", gpus=[0]), "slurm=dict(gpus_per_node=1)"),
    ],
    ids=str,
)
def test_a_wrong_sweep_starts_nothing(tmp_path, grid, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        sweep(
            notebook(tmp_path / "tiny.ipynb", WRITES),
            grid,
            out=tmp_path / "runs",
            **options,
        )
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_stops_cleanly_and_says_what_is_left(tmp_path):
    nb = notebook(
        tmp_path / "tiny.ipynb",
        f"open(f'{tmp_path}/{{seed}}.started', 'w')\nimport time; time.sleep(99)",
    )
    p = forked(
        main,
        [
            "sweep",
            str(nb),
            "-g",
            "seed=0,1,2",
            "--workers",
            "2",
            "--out",
            str(tmp_path / "runs"),
        ],
        said=tmp_path / "said",
    )
    until(lambda: len(list(tmp_path.glob("*.started"))) == 2)
    assert states(tmp_path / "runs") == dict(running=2, waiting=1)
    everyone = psutil.Process(p.pid).children(recursive=True)
    assert len(everyone) >= 5  # the pool, two runs, two kernels
    os.kill(p.pid, signal.SIGINT)
    p.join(40)
    said = (tmp_path / "said").read_text()
    assert p.exitcode == 1 and said.endswith(
        "3 of 3 runs are left; start the same sweep again to go on\n"
        "masktune: stopped; started again it goes on."
    ), said
    until(lambda: not any(map(alive, everyone)), 5)
    assert states(tmp_path / "runs") == dict(stopped=2, waiting=1) and not list(
        (tmp_path / "runs").glob("*/lock.*")
    )


@pytest.mark.slow
def test_the_pool_ends_with_its_sweep(tmp_path):
    nb = notebook(
        tmp_path / "tiny.ipynb",
        f"open({str(tmp_path / 'started')!r}, 'w')\nimport time; time.sleep(99)",
    )
    p = forked(sweep, nb, dict(seed=[0, 1]), out=tmp_path / "runs")
    until((tmp_path / "started").exists)
    everyone = psutil.Process(p.pid).children(recursive=True)
    p.kill()
    p.join()
    until(lambda: not any(map(alive, everyone)))
    assert states(tmp_path / "runs") == dict(stopped=1, waiting=1)


def test_reproduce(swept, tmp_path, capsys):
    tmp, nb, stands, _ = swept
    first = tmp / "runs" / stands.run[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the notebook asks for it
    try:
        rows = reproduce(first, tmp_path / "again").set_index("what")
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    assert (
        rows.same.all()
        and rows.now["metrics.parquet"] == "0 values differ"
        and (tmp_path / "again" / "finished.json").exists()
    )
    table = pd.read_parquet(first / "metrics.parquet")
    assert table.epoch.isna().all()
    (kept := tmp_path / "kept.parquet").write_bytes(
        (first / "metrics.parquet").read_bytes()
    )
    for where, same in (("minutes", True), ("accuracy", False)):
        table.assign(
            value=table.value + 1e-15 * (table.metric == where)
        ).to_parquet(first / "metrics.parquet")
        with pytest.raises(SystemExit) if not same else open(os.devnull):
            main(["reproduce", str(first), "--out", str(tmp_path / "again")])
        said = capsys.readouterr().out
        assert (
            ("every number came out the same" in said)
            and (("not every" in said) is not same)
            and (same or "1 values differ" in said)
        )
    (first / "metrics.parquet").write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=re.escape(f"{first}/metrics.parquet is damaged")
    ):
        reproduce(first)
    assert (
        run_status([first]).state[0] == "damaged"
        and f"metrics.parquet in {first} is not as it was written"
        in run_status([first]).note[0]
    )
    (first / "metrics.parquet").write_bytes(kept.read_bytes())
    with pytest.raises(ValueError, match="is not finished"):
        reproduce(
            tmp
            / "runs"
            / run_status(tmp / "runs").query("state == 'failed'").run.iloc[0]
        )
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        reproduce(tmp_path)


def test_thousands_of_runs_stand_in_seconds(tmp_path):
    for i in range(2000):
        (f := tmp_path / "a" / f"tiny-{i}").mkdir(parents=True)
        (f / "run.json").write_text(
            json.dumps(
                dict(
                    experiment="tiny",
                    notebook="",
                    given=dict(seed=i),
                    parameters={},
                    hash=str(i),
                )
            )
        )
        if i % 2:
            (f / "finished.json").write_text(json.dumps(dict(minutes=1, sizes={})))
    start = time.process_time()
    assert states(tmp_path) == dict(finished=1000, waiting=1000)
    assert time.process_time() - start < 3
    (tmp_path / "a" / "tiny-7" / "run.json").write_text('{"experi')
    assert states(tmp_path) == dict(finished=999, waiting=1000, damaged=1)
    with pytest.raises(
        FileNotFoundError,
        match="there are no runs in .*nowhere, which does not exist",
    ):
        run_status(tmp_path / "nowhere")
