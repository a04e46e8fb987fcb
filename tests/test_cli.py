"The command: one sentence for each mistake, light to start, never a traceback."

import json, os, re, subprocess, sys, time
from pathlib import Path

import pytest

from masktune.runs.cli import main
from throwaway import WRITES, notebook


def run_code(code, *words, **options):
    "Run Python code in a new process; what it printed"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        **options,
    )
    return done.stdout + done.stderr


COMMAND = "from masktune.runs.cli import main; main()"


def test_list_and_show(tmp_path, capsys):
    main(["list"])
    assert "biased_mnist" in capsys.readouterr().out.split()
    main(["show", str(notebook(tmp_path / "tiny.ipynb", WRITES))])
    said = capsys.readouterr().out
    assert "a number, 0 to 1" in said and "passes, 1 or more; None: 3" in said


def test_run_names_the_folder_by_its_hash(tmp_path, capsys):
    nb = str(
        notebook(
            tmp_path / "tiny.ipynb",
            WRITES,
            "open(f'{out}/table.md', 'w').write(f'| {method} |')",
        )
    )
    for _ in range(2):
        main(
            [
                "run",
                nb,
                "-p",
                "seed=1",
                "-p",
                "method=masktune",
                "--out",
                str(tmp_path / "runs"),
            ]
        )
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert (
        said.count("| MaskTune |") == 2
        and re.fullmatch("tiny-[0-9a-f]{16}", folder.name)
        and f"report.html: {folder}/report.html" in said
    )


@pytest.mark.parametrize(
    "line,says",
    [
        (
            "run {nb} -p epocs=3",
            "parameter='epocs' is not known. Did you mean 'epochs'?",
        ),
        ("run {nb} -p seed", "-p seed must be KEY=VALUE"),
        ("run {nb} -p epochs=0", "epochs=0 must be"),
        ("run bised_mnist", "Did you mean 'biased_mnist'"),
        ("sweep {nb} -g method=erm,dfr", "method='dfr' is not known"),
        ("status nowhere", "there are no runs in"),
        ("reproduce nowhere", "there is no run in"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    with pytest.raises(SystemExit) as e:
        main(line.format(nb=nb).split())
    assert (
        str(e.value).startswith("masktune: ")
        and says in str(e.value)
        and not (tmp_path / "runs").exists()
    )


def test_table_of_a_sweep(tmp_path, capsys):
    nb = str(notebook(tmp_path / "tiny.ipynb", WRITES))
    home = str(tmp_path / "runs")
    main(
        ["sweep", nb, "-g", "seed=0,1", "-g", "method=ERM,MaskTune", "--out", home]
    )
    capsys.readouterr()
    main(["table", home, "--metric", "accuracy"])
    said = capsys.readouterr().out
    assert "| ERM" in said and "| MaskTune" in said and "±" in said


@pytest.mark.parametrize(
    "line,says",
    [
        ("sweep {nb} -g seed=1 -g seed=2", "-g seed=... is given twice"),
        ("run {nb} -p seed=1 -p seed=2", "-p seed=... is given twice"),
        ("sweep {nb} -g seed=", "seed has no values"),
        ("sweep {nb} -g seed=1 --workers -1", "workers=-1 must be"),
        ("sweep {nb} -g seed=1 --workers 0", "workers=0 must be"),
        (
            "sweep {nb} -g seed=1 --workers 99999999",
            "workers=99999999 must be 1024",
        ),
        (
            "sweep {nb} -g seed=1 --threads 99999999",
            "threads=99999999 must be 1024",
        ),
        ("run {nb} --threads 0", "threads=0 must be"),
        ("sweep {nb} -g seed=1 --gpus -1", "must be a list of GPUs' numbers"),
        ("run {nb} -p share={{[]:1}}", "share='{[]:1}' must be a number"),
        ("run {nb} -p share=1e999", "share=inf must be"),
        ("run {nb} --resume-as nowhere", "holds no run to go on with"),
        ("fit nowhere", "there is no folder"),
        ("table nowhere", "nowhere"),
        ("status {nb}", "there are no runs in"),
        ("show {nb}/x.ipynb", "there is no notebook"),
    ],
)
def test_a_number_that_makes_no_sense_is_one_sentence(
    tmp_path, monkeypatch, line, says
):
    monkeypatch.chdir(tmp_path)
    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    with pytest.raises(SystemExit) as e:
        main(line.format(nb=nb).split())
    assert str(e.value).startswith("masktune: ") and says in str(e.value)
    assert "traceback" not in str(e.value) and not (tmp_path / "runs").exists()


def test_an_unexpected_error_is_one_sentence_and_its_traceback_a_file(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("masktune.runs.status.run_status", lambda runs: {}["a key"])
    with pytest.raises(SystemExit) as e:
        main(["status"])
    found = re.fullmatch(
        r"masktune: KeyError: 'a key' \(not foreseen; the traceback is in (.*)\)",
        str(e.value),
    )
    assert (
        found and "Traceback (most recent call last)" in Path(found[1]).read_text()
    )


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    code = (
        f"{sys.executable} -c '{COMMAND}' list | head -n 0; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "1") and not done.stderr


def test_status_of_thousands_of_runs_in_a_second(tmp_path):
    for i in range(2000):
        folder = tmp_path / f"tiny-{i}"
        folder.mkdir()
        plan = dict(experiment="tiny", notebook="", hash=str(i), parameters={})
        (folder / "run.json").write_text(
            json.dumps(plan | dict(given=dict(seed=i)))
        )
        if i % 2:
            (folder / "finished.json").write_text(
                json.dumps(dict(minutes=1, sizes={}))
            )
    loaded = "import sys; assert 'torch' not in sys.modules, 'torch is imported'"
    seconds = []
    for _ in range(3):
        start = time.process_time(), time.monotonic()
        before = os.times()
        said = run_code(f"{COMMAND}; {loaded}", "status", tmp_path)
        after = os.times()
        seconds.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert "1000 finished" in said and "1000 waiting" in said, said[-500:]
    print(f"masktune status, 2,000 runs: {min(seconds):.2f} s of CPU time")
    assert min(seconds) < 2 and start


def test_the_masktune_that_the_command_imported_is_the_one_that_runs(tmp_path):
    "Started beside another `masktune` folder, neither the pool nor a kernel imports that"
    other = tmp_path / "here" / "masktune"
    (other / "runs").mkdir(parents=True)
    for empty in (other, other / "runs"):
        (empty / "__init__.py").write_text(
            "raise RuntimeError('the wrong masktune')"
        )
    says = "import masktune, masktune.runs.cli\nopen(f'{out}/which', 'w').write(masktune.__file__)"
    nb = notebook(tmp_path / "tiny.ipynb", says, WRITES)
    import masktune

    home = str(Path(masktune.__file__).parents[1])
    code = f"import sys; sys.path[0] = {home!r}; {COMMAND}"
    for words in (["run", nb], ["sweep", nb, "-g", "seed=3"]):
        said = run_code(
            code, *words, "--out", tmp_path / "runs", cwd=tmp_path / "here"
        )
        assert "wrong" not in said, said
    files = sorted((tmp_path / "runs").glob("*/which"))
    assert [f.read_text() for f in files] == [masktune.__file__] * 2
    plan = json.loads((files[0].parent / "run.json").read_text())
    assert plan["masktune"] == str(Path(masktune.__file__).parent)


def test_maps_of_a_folder(tmp_path, capsys):
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

    from masktune.data.split import Split
    from masktune.models.zoo import create_model, save_model
    from masktune.saliency.maps import compute_maps

    noise = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    model = create_model("small_cnn", 2)
    save_model(model, tmp_path / "two.pt")
    save_model(create_model("small_cnn", 3), tmp_path / "three.pt")
    photos, out = str(tmp_path / "photos"), tmp_path / "maps"
    main(["maps", photos, str(tmp_path / "two.pt"), "--out", str(out)])
    split = Split.from_folder(photos)
    maps = compute_maps(model.eval(), split)
    with np.load(out / "maps.npz") as stored:
        assert stored["ids"].tolist() == split.ids
        assert np.allclose(stored["maps"], maps.values.numpy(), atol=1e-3)
    hidden = maps.masks().hidden_pixels() / (24 * 32)
    table = pd.read_csv(out / "maps.csv")
    assert table.label.tolist() == list("aaabbb") and set(table.predicted) <= set("ab")
    assert np.allclose(table.hidden, hidden) and 0 < table.hidden.max() < 0.5
    mask = np.asarray(Image.open(out / "masks" / "a" / "0.jpg.png.png"))
    assert mask.shape == (24, 32) and (mask > 0).mean() == pytest.approx(float(hidden[0]))
    assert Image.open(out / "overlays" / "b" / "5.jpg.png.png").size == (32, 24)
    assert f"table: {out / 'maps.csv'}" in capsys.readouterr().out

    (tmp_path / "photos" / "torn.png").write_bytes(b"no picture")
    main(["maps", photos, str(tmp_path / "two.pt"), "--out", str(out)])
    line = ["maps", photos, str(tmp_path / "three.pt"), "--out", str(tmp_path / "flat")]
    with pytest.raises(SystemExit, match="1 of 7 images can't be read"):
        main(line)
    with pytest.warns(UserWarning, match="1 of 7"):
        main([*line, "--skip-broken"])
    flat = pd.read_csv(tmp_path / "flat" / "maps.csv")
    assert len(flat) == 6 and "label" not in flat and set(flat.predicted) <= {0, 1, 2}
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(SystemExit, match="does not say of which network"):
        main(["maps", photos, str(tmp_path / "plain.pt")])


def test_a_closed_output_is_no_error():
    command = [sys.executable, "-c", "from masktune.runs.cli import main; main()"]
    listed = subprocess.run(
        ["sh", "-c", '"$@" list >&-', "sh", *command], capture_output=True, text=True
    )
    assert (listed.returncode, listed.stderr) == (0, "")
