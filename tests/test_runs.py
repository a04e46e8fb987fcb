"What a run is called, that it is done once, that nothing already done is lost."

import contextlib, json, multiprocessing, os, re, shutil, signal, socket, subprocess, sys, time

import psutil
import pytest


from masktune.runs import locks, parameters
from masktune.runs.cli import main
from masktune.runs.execute import _claim, _difference, _plan, resume_run
from masktune.runs.execute import run_experiment
from masktune.runs.locks import RunLocked, _RunLock, lock_owner
from masktune.runs.parameters import _checked_parameters, _parameters
from masktune.runs.parameters import experiment_parameters, list_experiments
from masktune.runs.record import is_finished, run_hash, write_record
from throwaway import WRITES, forked, notebook, until


def contents(folder):
    return {
        p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.fixture
def small_disk(tmp_path):
    "A folder on a disk of 100 kB"
    (disk := tmp_path / "disk").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk],
        capture_output=True,
    ).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


# what it may be told


@pytest.mark.parametrize(
    "given,says",
    [
        (
            dict(sed=1),
            "parameter='sed' is not known. Did you mean 'seed'? There are: seed, method, share, epochs, out.",
        ),
        (dict(seed="one"), "seed='one' must be a whole number (of the throw)."),
        (dict(seed=1.5), "seed=1.5 must be a whole number"),
        (dict(seed=True), "seed=True must be a whole number"),
        (dict(seed=None), "seed=None must be a whole number"),
        (
            dict(method="MaskTun"),
            "method='MaskTun' is not known. Did you mean 'MaskTune'? There are: ERM, MaskTune, all.",
        ),
        (dict(method=3), "method=3 is not known."),
        (dict(share=1.5), "share=1.5 must be between 0 and 1"),
        (dict(share="half"), "share='half' must be a number"),
        (dict(epochs=0), "epochs=0 must be a whole number, 1 or more"),
        (dict(epochs=2.0), "epochs=2.0 must be a whole number, 1 or more or None"),
        (dict(out="x"), "out=... is not a parameter to give"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_refused_before_anything_starts(tmp_path, given, says):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    with pytest.raises(ValueError, match=re.escape(says)):
        _checked_parameters(nb, given)
    if "out" not in given:
        with pytest.raises(ValueError):
            run_experiment(nb, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_the_comment_says_what_is_allowed(tmp_path):
    lines = """one = None      # None: 3 or, for "mini", 2
rate = None     # None: .1 or, for "mini", 1
net = None      # a name such as "a" or "b"; None: "c" or, for "mini", "d"
which = None    # "x", "y"; None: either
many = "all"    # "ERM", "MaskTune", several with commas between, or "all"
like = "all"    # a name such as "ERM", or "all"
low = 0         # -2 to 0
free = None     # a folder; None: elsewhere
noted: float = None  # anything; None: as above"""
    nb = notebook(tmp_path / "tiny.ipynb", parameters=lines)
    assert experiment_parameters(nb).allowed.tolist() == [
        "a whole number or None",
        "a number or None",
        "a text or None",
        '"x", "y" or None',
        '"ERM", "MaskTune", "all", or several with commas between',
        "a text",
        "a whole number, -2 to 0",
        "any value",
        "a number or None",
    ]
    assert (
        _checked_parameters(nb, dict(many="erm, MASKTUNE", like="new", rate=1))[
            "many"
        ]
        == "ERM,MaskTune"
    )
    for wrong in (
        dict(one=0.5),
        dict(one="x"),
        dict(rate="x"),
        dict(net=3),
        dict(which="z"),
        dict(many="ERM,JTT"),
        dict(many="ERM;MaskTune"),
        dict(like=1),
        dict(low=1),
        dict(low=-3),
        dict(noted="x"),
    ):
        with pytest.raises(
            ValueError,
            match=rf"{next(iter(wrong))}=.* (must be|is not known)|many='JTT' is not known",
        ):
            _checked_parameters(nb, wrong)


@pytest.mark.parametrize("name", list(list_experiments()))
def test_an_experiments_defaults_are_among_what_it_allows(name):
    for p in _parameters(name).values():
        assert p.check(p.default) == p.default


def test_a_notebook_that_is_none(tmp_path):
    untagged, nothing = (
        notebook(tmp_path / "untagged.ipynb", WRITES, tags=()),
        tmp_path / "torn.ipynb",
    )
    nothing.write_text(untagged.read_text()[:200])
    with pytest.raises(
        ValueError,
        match="untagged.ipynb has no cell tagged `parameters`: tag the cell",
    ):
        run_experiment(untagged, tmp_path / "run")
    with pytest.raises(ValueError, match="torn.ipynb is damaged"):
        experiment_parameters(nothing)
    with pytest.raises(
        FileNotFoundError, match="there is no notebook .*absent.ipynb"
    ):
        experiment_parameters(tmp_path / "absent.ipynb")
    with pytest.raises(ValueError, match="Did you mean 'biased_mnist'"):
        experiment_parameters("biased_mist")
    assert not (tmp_path / "run").exists()


# its name


def test_prose_changes_no_name(tmp_path):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    before, text = run_hash(nb), nb.read_text()
    assert (
        before == run_hash(nb, seed=0) == run_hash(nb, method="erm")
        and len({before, run_hash(nb, seed=1), run_hash(nb, epochs=3)}) == 3
    )
    for old, new, same in [
        ("An experiment that takes", "One that takes", True),
        ("# of the throw", "# of the dice", True),
        ("import json, numpy", "# first\\nimport json,  numpy", True),
        (".random(4)", ".random(5)", False),
        ("seed = 0 ", "seed = 1 ", False),
    ]:
        assert old in text
        nb.write_text(text.replace(old, new))
        assert (run_hash(nb) == before) is same, (old, new)


@pytest.mark.parametrize(
    "module,added,same",
    [
        ("saliency/masking", "# prose", True),
        ("saliency/masking", "def new(): return 1", False),
        ("runs/sweep", "def new(): return 1", True),
        ("runs/tables", "def new(): return 1", True),
        ("runs/compare", "def new(): return 1", False),
    ],
    ids=str,
)
def test_an_edited_method_changes_the_name(
    tmp_path, monkeypatch, module, added, same
):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    before = run_hash(nb)
    copy = tmp_path / "masktune"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(parameters._package_folder(), copy, ignore=ignored)
    monkeypatch.setattr("masktune.runs.record._package_folder", lambda: copy)
    assert run_hash(nb) == before
    with open(tmp_path / "masktune" / f"{module}.py", "a") as f:
        f.write(f"\n{added}\n")
    assert (run_hash(nb) == before) is same


# one run


def test_a_run_leaves_its_record_and_is_done_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figure = """#| fig-alt: "A line that rises"
import matplotlib.pyplot as plt, pandas as pd
plt.plot([1, 2]); plt.show()
pd.DataFrame(dict(a=[1]))"""
    nb = notebook(
        tmp_path / "tiny.ipynb",
        "#| hide\nprint('not this')",
        WRITES,
        figure,
        "import os; print(*[os.environ[k] for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')])",
    )
    executed = run_experiment(nb, tmp_path / "run", threads=2, seed=5)
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {
        "config.json",
        "finished.json",
        "log.txt",
        "metrics.parquet",
        "report.html",
        "run.json",
        "tiny.ipynb",
    } and is_finished(tmp_path / "run")
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (
        asked["parameters"] == dict(seed=5, method="ERM", share=0.5, epochs=None)
        and asked["given"] == dict(seed=5)
        and asked["hash"]
        == run_hash(nb, seed=5)
        == write_record(tmp_path / "run", {})["run"]
    )
    assert (
        asked["threads"] == 2
        and "2 2\\n" in executed.read_text()
        and os.environ["OMP_NUM_THREADS"] == "1"
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert (
        'alt="A line that rises"' in page
        and "data:image/png;base64," in page
        and asked["hash"] in page
        and 'name="viewport"' in page
        and "<h1" in page
    )
    assert (
        "default_rng" not in page
        and "not this" not in page
        and "<script" not in page
        and not re.search(r"""(src|href|url)\W{1,3}(https?:)?//""", page)
    )
    before = contents(tmp_path / "run")
    run_experiment(nb, tmp_path / "run", seed=5)
    assert contents(tmp_path / "run") == before
    with pytest.raises(
        ValueError,
        match=r"holds another run, with seed=5 \(now 6\): choose another folder",
    ):
        run_experiment(nb, tmp_path / "run", seed=6)
    nb.write_text(nb.read_text().replace("random(4)", "random(4)*2"))
    with pytest.raises(
        ValueError, match="holds another run, with the code as it was then"
    ):
        run_experiment(nb, tmp_path / "run", seed=5)
    assert contents(tmp_path / "run") == before


def test_a_run_that_failed_keeps_what_it_did_and_goes_on(tmp_path):
    goes_on = """from pathlib import Path
done = Path(out)/"checkpoints"; done.mkdir(exist_ok=True)
(done/str(len(list(done.iterdir())))).touch()
print("tries:", len(list(done.iterdir())))"""
    nb = notebook(
        tmp_path / "tiny.ipynb",
        goes_on,
        f"if not Path({str(tmp_path)!r}, 'mended').exists(): raise KeyError('nothing\\nthere')",
        WRITES,
    )
    with pytest.raises(
        RuntimeError,
        match=r"KeyError: 'nothing.* \(What was done before is in .*tiny.ipynb\.\)",
    ):
        run_experiment(nb, tmp_path / "run", threads=2)
    text = (tmp_path / "run" / "tiny.ipynb").read_text()
    assert (
        "tries: 1" in text
        and "Traceback" in text
        and json.loads((tmp_path / "run" / "failed.json").read_text())[
            "error"
        ].startswith("KeyError")
        and not is_finished(tmp_path / "run")
    )
    (tmp_path / "mended").touch()
    run_experiment(nb, tmp_path / "run")
    assert (
        "tries: 2" in (tmp_path / "run" / "tiny.ipynb").read_text()
        and is_finished(tmp_path / "run")
        and not (tmp_path / "run" / "failed.json").exists()
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threads"] == 2


def test_a_killed_kernel_is_one_sentence(tmp_path):
    nb = notebook(
        tmp_path / "tiny.ipynb",
        "print('here')",
        "import os; os.kill(os.getpid(), 9)",
    )
    with pytest.raises(
        RuntimeError, match="the kernel died in the middle of a cell"
    ):
        run_experiment(nb, tmp_path / "run")
    assert (
        "here" in (tmp_path / "run" / "tiny.ipynb").read_text()
        and (tmp_path / "run" / "failed.json").exists()
        and not lock_owner(tmp_path / "run")
    )


def test_a_full_disk_is_one_sentence(tmp_path, small_disk):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    run_experiment(nb, small_disk / "first")
    before = contents(small_disk / "first")
    fat = notebook(tmp_path / "fat.ipynb", "print('x'*200_000)")
    with pytest.raises(
        OSError,
        match=rf"{small_disk}/second\S* can't be written: No space left on device. Make room",
    ):
        run_experiment(fat, small_disk / "second")
    assert (
        contents(small_disk / "first") == before
        and not is_finished(small_disk / "second")
        and not lock_owner(small_disk / "second")
    )
    subprocess.run(["mount", "-o", "remount,size=4M", small_disk], check=True)
    run_experiment(fat, small_disk / "second")
    assert is_finished(small_disk / "second")


def test_a_read_only_folder_is_one_sentence(tmp_path, small_disk):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    run_experiment(nb, small_disk / "first")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = contents(small_disk / "first")
    with pytest.raises(
        OSError,
        match=f"{small_disk}/second/run.json can't be written: Read-only file system",
    ):
        run_experiment(nb, small_disk / "second")
    assert contents(small_disk / "first") == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_run_that_is_stopped_leaves_no_process_and_no_lock(tmp_path, how):
    nb = notebook(
        tmp_path / "tiny.ipynb",
        "print('one')",
        f"open({str(tmp_path / 'started')!r}, 'w')\nimport time; time.sleep(99)",
    )
    p = forked(
        main,
        ["run", str(nb), "--out", str(tmp_path / "runs")],
        said=tmp_path / "said",
    )
    until((tmp_path / "started").exists)
    kernels, folder = (
        psutil.Process(p.pid).children(recursive=True),
        next((tmp_path / "runs").iterdir()),
    )
    assert kernels and lock_owner(folder)["pid"] == p.pid
    os.kill(p.pid, how)
    p.join(30)
    assert (
        p.exitcode == 1
        and (tmp_path / "said").read_text()
        == "masktune: stopped; started again it goes on."
    )
    assert (
        not any(k.is_running() for k in kernels)
        and {f.name for f in folder.iterdir()}
        == {"run.json", "log.txt", "minutes.json", "tiny.ipynb"}
        and "one" in (folder / "tiny.ipynb").read_text()
    )


# its lock


def lock(folder, **said):
    (folder / "lock.1").write_text(
        json.dumps(
            dict(
                host=socket.gethostname(),
                pid=os.getpid(),
                born=psutil.Process().create_time(),
                started="then",
                slurm=None,
            )
            | said
        )
    )
    return folder / "lock.1"


def test_a_lock_is_held_by_its_process(tmp_path):
    assert lock_owner(tmp_path) is None
    with _RunLock(tmp_path):
        assert (
            lock_owner(tmp_path)["pid"] == os.getpid()
            and lock_owner(tmp_path)["host"] == socket.gethostname()
        )
        with pytest.raises(
            RunLocked,
            match=f"is being run by process {os.getpid()} on {socket.gethostname()} since 20",
        ):
            _RunLock(tmp_path).__enter__()
    assert lock_owner(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_lock_dies_with_its_process(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    lock(tmp_path, pid=child.pid, born=psutil.Process(child.pid).create_time())
    assert lock_owner(tmp_path)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert lock_owner(tmp_path) is None  # a dead process that nobody has waited for
    child.wait()
    assert lock_owner(tmp_path) is None
    with _RunLock(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == ["lock.2"]


@pytest.mark.parametrize(
    "said",
    [dict(host="elsewhere"), dict(born=0.0)],
    ids=["another host", "a number used again"],
)
def test_a_lock_that_cannot_be_looked_up_dies_of_silence(tmp_path, said):
    path = lock(tmp_path, **said)
    assert lock_owner(tmp_path)
    os.utime(path, (time.time() - 601,) * 2)
    assert lock_owner(tmp_path) is None


def test_an_empty_lock_is_a_new_one(tmp_path):
    (tmp_path / "lock.1").touch()
    with pytest.raises(RunLocked):
        _RunLock(tmp_path).__enter__()


def test_a_lock_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT", 0.02)
    with _RunLock(tmp_path) as held:
        os.utime(held.path, (0, 0))
        time.sleep(0.3)
        assert time.time() - held.path.stat().st_mtime < 10


def test_slurm_is_asked_about_locks_on_other_hosts(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 7_1 RUNNING\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    path = lock(tmp_path / "run", host="elsewhere", slurm="7_1")
    os.utime(path, (0, 0))
    assert lock_owner(tmp_path / "run")  # silent, but Slurm knows better
    lock(tmp_path / "run", host="elsewhere", slurm="7_2")
    assert lock_owner(tmp_path / "run") is None  # not silent, but gone
    lock(tmp_path / "run", host="elsewhere", slurm="7_1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert (
        lock_owner(tmp_path / "run") is None
    )  # this job itself, requeued on another node
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert lock_owner(
        tmp_path / "run"
    )  # the controller is down: the heartbeat counts


def _contend(folder, barrier, won):
    for i in range(30):
        barrier.wait()
        try:
            with _RunLock(folder / str(i)):
                won[i] += 1
                barrier.wait()
        except RunLocked:
            barrier.wait()


def test_of_many_that_find_a_dead_lock_one_takes_it(tmp_path):
    for i in range(30):
        (tmp_path / str(i)).mkdir()
        lock(tmp_path / str(i), pid=2**22 + 1)
    fork = multiprocessing.get_context("fork")
    barrier, won = fork.Barrier(6), fork.Array("i", 30)
    # `won` is added to under the lock alone, so two holders at once show as 2
    processes = [
        fork.Process(target=_contend, args=(tmp_path, barrier, won))
        for _ in range(6)
    ]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert (
        all(p.exitcode == 0 for p in processes) and max(won) == 1 and sum(won) > 20
    )


def test_again_refuses_what_was_asked_for_with_other_code(tmp_path):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    _claim(tmp_path / "run", _plan(nb, {}))
    nb.write_text(nb.read_text().replace("random(4)", "random(4)*2"))
    with pytest.raises(
        ValueError, match="was asked for with other code than there is now"
    ):
        resume_run(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no run"):
        resume_run(tmp_path)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is damaged: delete it"):
        resume_run(tmp_path / "run")


# promises in the cases that broke them


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the kernel")
@pytest.mark.parametrize("wait", ["time.sleep(99)", "sum(range(10**11))"], ids=str)
def test_a_kernel_ends_with_the_process_that_was_killed(tmp_path, wait):
    "Also in the middle of a long call, during which no thread of the kernel runs"
    started = tmp_path / "started"
    cell = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid()))"
    nb = notebook(tmp_path / "tiny.ipynb", cell, wait)
    p = forked(run_experiment, nb, tmp_path / "run")
    until(lambda: started.exists() and started.read_text())
    kernel = int(started.read_text())
    content = json.loads(next((tmp_path / "run").glob("lock.*")).read_text())
    assert content["kernel"]["pid"] == kernel and content["pid"] == p.pid
    p.kill()
    p.join()
    until(lambda: not psutil.pid_exists(kernel), 5)
    until(lambda: lock_owner(tmp_path / "run") is None, 5)


def test_a_folder_stays_locked_while_the_kernel_lives(tmp_path):
    gone = psutil.Process().create_time() - 9999
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    born = psutil.Process(child.pid).create_time()
    lock(tmp_path, pid=2**22 + 1, born=gone, kernel=dict(pid=child.pid, born=born))
    assert lock_owner(tmp_path)["pid"] == child.pid
    with pytest.raises(RunLocked, match=f"process {child.pid} on"):
        _RunLock(tmp_path).__enter__()
    child.kill()
    child.wait()
    assert lock_owner(tmp_path) is None


def test_a_lock_dated_in_the_future_counts_as_now(tmp_path):
    path = lock(tmp_path, host="elsewhere")
    os.utime(path, (time.time() + 1e8,) * 2)
    assert lock_owner(tmp_path)
    assert abs(path.stat().st_mtime - time.time()) < 60, "it ages from now on"


@pytest.mark.parametrize("text", ["[]", "3", '{"pid": "x"}', '{"pid": [1]}', "{}"])
def test_a_lock_of_another_shape_dies_of_silence(tmp_path, text):
    path = tmp_path / "lock.1"
    path.write_text(text)
    assert lock_owner(tmp_path) is not None
    os.utime(path, (time.time() - 601,) * 2)
    assert lock_owner(tmp_path) is None


def test_a_finished_run_in_a_read_only_folder_can_be_asked_for_again(
    tmp_path, small_disk
):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    executed = run_experiment(nb, small_disk / "first")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run_experiment(nb, small_disk / "first") == executed


def test_the_minutes_of_a_resumed_run_are_those_of_all_attempts(tmp_path):
    nb = notebook(
        tmp_path / "tiny.ipynb",
        "import time; time.sleep(3)",
        "from pathlib import Path\ntried = Path(out, 'tried')\n"
        "if not tried.exists(): tried.touch(); 1/0",
    )
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_experiment(nb, tmp_path / "run")
    time.sleep(10)  # nobody works
    run_experiment(nb, tmp_path / "run")
    all_of_it = (time.monotonic() - start) / 60
    minutes = json.loads((tmp_path / "run" / "finished.json").read_text())[
        "minutes"
    ]
    assert 6 / 60 <= minutes <= all_of_it - 8 / 60
    assert not (tmp_path / "run" / "minutes.json").exists()


def test_a_run_under_an_edited_notebook_goes_on(tmp_path, capsys):
    goes_on = """from pathlib import Path
tried = Path(out, "tried")
print("goes on:", tried.exists())
if not tried.exists(): tried.touch(); raise KeyError("first")"""
    nb = notebook(tmp_path / "tiny.ipynb", goes_on, WRITES)
    words = ["run", str(nb), "-p", "seed=3", "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match="KeyError"):
        main(words)
    (old,) = (tmp_path / "runs").iterdir()
    nb.write_text(nb.read_text().replace("random(4)", "random(4)*2"))
    with pytest.raises(
        ValueError, match=f"go on under the new code with --resume-as {old}"
    ):
        resume_run(old)
    with pytest.raises(SystemExit, match=r"with seed=3 \(now 4\): only the code"):
        main([*words[:3], "seed=4", *words[4:], "--resume-as", str(old)])
    capsys.readouterr()
    main([*words, "--resume-as", str(old)])
    (new,) = (tmp_path / "runs").iterdir()
    assert new != old and is_finished(new)
    assert "goes on: True" in (new / "tiny.ipynb").read_text()
    before = json.loads((new / "run.json").read_text())["earlier"]
    assert before == [old.name.split("-")[1]]
    with pytest.raises(SystemExit, match="nothing to go on with"):
        main([*words, "--resume-as", str(new)])


def test_the_command_says_that_a_run_was_begun_with_other_code(tmp_path, capsys):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    old = tmp_path / "runs" / "tiny-0123456789abcdef"
    _claim(old, _plan(nb, {}) | dict(hash="0123456789abcdef"))
    (old / "log.txt").touch()
    main(["run", str(nb), "--out", str(tmp_path / "runs")])
    assert f"add --resume-as {old}" in capsys.readouterr().err


def test_a_folder_of_runs_does_not_become_a_run(tmp_path):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    _claim(tmp_path / "runs" / "one", _plan(nb, {}))
    with pytest.raises(ValueError, match="name a folder of its own for this one"):
        run_experiment(nb, tmp_path / "runs")


def test_parameters_may_be_called_name_and_threads(tmp_path, capsys):
    lines = "name = 'a'  # such as 'b'\nthreads = 3  # of yarn\nresume_as = 1  # no"
    nb = notebook(tmp_path / "tiny.ipynb", "print(name, threads)", parameters=lines)
    words = [f"-p{p}" for p in ("name=b", "threads=4", "resume_as=2")]
    main(["run", str(nb), *words, "--out", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").iterdir()
    assert "b 4" in (folder / "tiny.ipynb").read_text()
    assert json.loads((folder / "run.json").read_text())["given"]["threads"] == 4


@pytest.mark.parametrize("metadata", [{}, dict(kernelspec=dict(name="nobody-s"))])
def test_a_notebook_without_a_kernel_runs(tmp_path, metadata):
    nb = notebook(tmp_path / "tiny.ipynb", "import sys; print(sys.executable)")
    content = json.loads(nb.read_text())
    if metadata:
        metadata["kernelspec"] |= dict(display_name="x", language="python")
    nb.write_text(json.dumps(content | dict(metadata=metadata)))
    executed = run_experiment(nb, tmp_path / "run")
    assert json.dumps(sys.executable)[1:-1] in executed.read_text()


def test_a_kernel_of_another_python_or_language_is_one_sentence(
    tmp_path, monkeypatch
):
    spec = tmp_path / "jupyter" / "kernels" / "other"
    spec.mkdir(parents=True)
    argv = ["/opt/other/bin/python", "-m", "ipykernel_launcher"]
    kernel = dict(argv=argv, display_name="Other", language="python")
    (spec / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    content = json.loads(nb.read_text())
    for metadata, says in [
        (
            dict(kernelspec=dict(name="other", language="python")),
            "asks for the kernel 'other', which is /opt/other/bin/python; masktune is",
        ),
        (dict(kernelspec=dict(name="ir", language="R")), "is a notebook in R"),
        (dict(language_info=dict(name="julia")), "is a notebook in julia"),
    ]:
        nb.write_text(json.dumps(content | dict(metadata=metadata)))
        os.utime(nb, ns=(time.time_ns(), time.time_ns()))
        with pytest.raises(ValueError, match=re.escape(says)):
            run_experiment(nb, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_users_own_python3_kernel_is_not_asked(tmp_path, monkeypatch):
    "A kernel called python3 that is another Python, as conda installs for a user"
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    kernel = dict(argv=["/bin/false"], display_name="Python 3", language="python")
    (spec / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    assert is_finished(run_experiment(nb, tmp_path / "run").parent)


def test_a_full_disk_in_a_cell_is_one_sentence(tmp_path):
    cell = "import os; raise OSError(28, os.strerror(28), 'a/checkpoint.pt')"
    nb = notebook(tmp_path / "tiny.ipynb", cell)
    with pytest.raises(RuntimeError, match="run can't be written: No space left"):
        run_experiment(nb, tmp_path / "run")


SHAPES = ["{}", "[]", "3", "null", '"text"', '{"a": 1}', "{", "\x00", "[" * 9999]


@pytest.mark.parametrize("file", ["run.json", "finished.json", "config.json"])
def test_a_file_of_another_shape_hides_no_other_run(tmp_path, capsys, file):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    good = run_experiment(nb, tmp_path / "runs" / "good", seed=1).parent
    for i, text in enumerate(SHAPES):
        bad = tmp_path / "runs" / f"bad-{i}"
        shutil.copytree(good, bad)
        (bad / file).write_text(text)
        main(["status", str(tmp_path / "runs")])
        said = capsys.readouterr().out
        assert re.search(r"\| good +\| tiny .*\| finished", said)
        state = "finished" if file == "config.json" else "damaged"
        assert re.search(rf"\| bad-{i} .*\| {state}", said), said
        if file != "config.json":
            with pytest.raises(
                SystemExit, match=f"{bad}/{file} is damaged: delete it"
            ):
                main(["reproduce", str(bad), "--out", str(tmp_path / "again")])
        damaged = pytest.warns(
            UserWarning, match=f"bad-{i}: config.json is damaged"
        )
        with damaged if file == "config.json" else contextlib.nullcontext():
            main(["table", str(tmp_path / "runs"), "--metric", "accuracy"])
        assert "| ERM" in capsys.readouterr().out
        shutil.rmtree(bad)


def test_a_damaged_run_is_named_with_what_to_do(tmp_path, capsys):
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    words = ["sweep", str(nb), "-g", "seed=0,1", "--out", str(tmp_path / "runs")]
    main(words)
    hurt = sorted((tmp_path / "runs").iterdir())[0]
    for damage, says in [
        (
            "{}",
            f"{hurt}/finished.json is damaged: delete it and start the run again",
        ),
        ("metrics", f"metrics.parquet in {hurt} is not as it was written: delete"),
    ]:
        whole = (hurt / "finished.json").read_text()
        if damage == "{}":
            (hurt / "finished.json").write_text(damage)
        else:
            (hurt / "metrics.parquet").write_bytes(b"PAR1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            main(words)
        said = capsys.readouterr().out
        assert e.value.code == 1 and says in said
        assert "1 of them finished, 0 to do, 1 damaged" in said
        with pytest.raises(ValueError, match=re.escape(says)):
            resume_run(hurt)
        (hurt / "finished.json").write_text(whole)


def test_a_parameter_that_a_run_did_not_have_is_a_difference_where_it_is_given():
    before = dict(experiment="tiny", parameters=dict(seed=5))
    now = dict(
        experiment="tiny", parameters=dict(seed=5, share=0.5), given=dict(seed=5)
    )
    assert _difference(before, now) == "", (
        "the code has a new one: only the code differs"
    )
    given = now | dict(given=dict(seed=5, share=0.5))
    assert _difference(before, given) == "no share (now 0.5)"
    assert _difference(
        before, given | dict(parameters=dict(seed=6, share=0.5))
    ) == ("seed=5 (now 6), no share (now 0.5)")
