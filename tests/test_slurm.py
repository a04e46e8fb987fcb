"A sweep on a real Slurm: one node, started here on loopback. `apt-get install slurm-wlm munge`; needs root."

import getpass, os, shutil, socket, subprocess, tempfile
from pathlib import Path

import pytest

from masktune.runs.status import run_status
from masktune.runs.sweep import sweep
from throwaway import WRITES, notebook, until

CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={d}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def asked(*command):
    return subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def slurm():
    "Slurm on this machine, while the tests of this file last"
    if missing := [
        p
        for p in ("munged", "slurmctld", "slurmd", "sbatch")
        if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    ]:
        pytest.skip(
            f"needs Slurm ({', '.join(missing)} missing): apt-get install slurm-wlm munge"
        )
    if getpass.getuser() != "root":
        pytest.skip("needs root, to start a Slurm of its own")
    pytest.importorskip("submitit")
    d, host, path = (
        Path(tempfile.mkdtemp(prefix="slurm")),
        socket.gethostname().split(".")[0],
        os.environ["PATH"] + ":/usr/sbin:/sbin",
    )
    d.chmod(0o755)
    for f in ("state", "spool"):
        (d / f).mkdir()
    (d / "key").write_bytes(os.urandom(128))
    (d / "key").chmod(0o400)
    ports = []
    for s in (a := socket.socket(), b := socket.socket()):
        s.bind(("127.0.0.1", 0))
        ports.append(s.getsockname()[1])
    a.close()
    b.close()
    (d / "slurm.conf").write_text(CONF.format(d=d, host=host, ports=ports))
    env = os.environ | {"SLURM_CONF": str(d / "slurm.conf"), "PATH": path}
    daemons = [
        [
            "munged",
            "--foreground",
            f"--key-file={d}/key",
            f"--socket={d}/munge.socket",
            f"--pid-file={d}/munged.pid",
            f"--log-file={d}/munged.log",
            f"--seed-file={d}/seed",
        ],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    started = []
    try:
        for command in daemons:
            started.append(
                subprocess.Popen(
                    command,
                    env=env,
                    stdout=subprocess.DEVNULL,
                    stderr=open(d / f"{command[0]}.err", "w"),
                )
            )
            if command[0] == "munged":
                until((d / "munge.socket").exists, 20)
        with pytest.MonkeyPatch.context() as m:
            m.setenv("SLURM_CONF", env["SLURM_CONF"])
            m.setenv("PATH", path)
            until(
                lambda: (
                    "idle"
                    in subprocess.run(
                        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True
                    ).stdout
                ),
                40,
            )
            yield
            subprocess.run(["scancel", "--user=root"])
    finally:
        for p in reversed(started):
            p.terminate()
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        shutil.rmtree(d)


def test_a_sweep_on_slurm_is_requeued_and_goes_on(slurm, tmp_path):
    "Three runs as one array: one finishes, one fails, one is preempted in the middle and goes on"
    waits = """import os, time
tries = os.path.join(out, 'tries')
with open(tries, 'a') as f: f.write('x')
while seed == 2 and len(open(tries).read()) < 2: time.sleep(.1)
if seed == 1: raise ValueError('one is refused')
print(seed, os.environ['OMP_NUM_THREADS'], os.environ['SLURM_ARRAY_TASK_ID'])"""
    nb, home = notebook(tmp_path / "tiny.ipynb", waits, WRITES), tmp_path / "runs"

    def state():
        return run_status(home).set_index("given").state.to_dict()

    stands = sweep(
        nb,
        dict(seed=[0, 1, 2]),
        out=home,
        on="slurm",
        workers=2,
        threads=1,
        slurm=dict(timeout_min=10),
    )
    jobs = [(home / r / "slurm.json").read_text() for r in stands.run]
    assert (
        set(stands.state) <= {"queued", "running"}
        and len({j.split("_")[0] for j in jobs}) == 1
        and len(set(jobs)) == 3
    )  # one array
    assert set(
        sweep(
            nb, dict(seed=[0, 1, 2]), out=home, on="slurm", workers=2, threads=1
        ).state
    ) <= {"queued", "running"}
    assert len(asked("squeue", "-h", "-r", "-o", "%i").split()) <= 3  # not twice
    last = home / stands.run[2]
    until(
        lambda: (
            (last / "tries").exists()
            and state()
            == {"seed=0": "finished", "seed=1": "failed", "seed=2": "running"}
            and len(asked("squeue", "-h", "-r", "-o", "%A").split()) == 1
        )
    )
    job = asked("squeue", "-h", "-r", "-o", "%A").strip()
    asked("scontrol", "requeue", job)
    until(
        lambda: (
            "PENDING" in asked("squeue", "-h", "-r", "-o", "%T")
            and state()["seed=2"] == "queued"
        )
    )
    asked(
        "scontrol", "update", f"JobId={job}", "StartTime=now"
    )  # else Slurm waits two minutes
    until(lambda: state()["seed=2"] == "finished")
    assert (last / "tries").read_text() == "xx" and "2 1 2" in (
        last / "tiny.ipynb"
    ).read_text()
    assert (last / "slurm.out").resolve().is_relative_to(home / "slurm") and (
        last / "slurm.out"
    ).read_text().count(
        "Starting with JobEnvironment"
    ) == 2  # the log, by the run's name
    assert (
        "one is refused"
        in (home / stands.run[1] / "slurm.err").read_text()
        + (home / stands.run[1] / "slurm.out").read_text()
    )


def test_slurm_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("submitit")
    with pytest.raises(FileNotFoundError, match="there is no sbatch here"):
        sweep(
            notebook(tmp_path / "tiny.ipynb", WRITES),
            dict(seed=[0]),
            out=tmp_path / "runs",
            on="slurm",
        )
