"Disks that are full, read-only, of others or failing: one sentence with the place, never other numbers."

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masktune.core.files import atomic_write, explain_disk_error
from masktune.core.files import read_tensors, write_tensors
from masktune.data import image_cache
from masktune.data.image_cache import cache_root, decode_images
from masktune.data.split import Split
from masktune.evaluation.features import extract_features
from masktune.models.zoo import create_model, load_model, save_model
from masktune.runs.cli import main
from masktune.saliency.maps import SaliencyMaps, compute_maps
from masktune.training.checkpoints import Checkpoints

FULL = "can't be written: (No space left on device|File too large). Make room, or"


@contextlib.contextmanager
def files_of_at_most(n_bytes):
    "Within the block no file grows beyond this size, as on a disk that fills up"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 1 MB; a skip where nothing can be mounted"
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def photos(folder, n=12, side=64):
    "Files of noise, which do not compress"
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    paths = [folder / f"{i:02}.png" for i in range(n)]
    for path, pixels in zip(paths, noise):
        Image.fromarray(pixels).save(path)
    return paths


def flip(file, at=0.5):
    "Change one bit, and leave size and time of the file as they are"
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def split(n=8, side=32):
    images = torch.arange(n * 3 * side * side).view(n, 3, side, side) % 251
    return Split.from_tensors(images.byte(), [i % 2 for i in range(n)])


# --- full -----------------------------------------------------------------------


def write_maps(file):
    compute_maps(create_model("small_cnn", 2), split(), file=file)


WRITERS = {
    "text": lambda file: _write_text(file),
    "tensors": lambda file: write_tensors(dict(a=torch.zeros(9999)), file),
    "network": lambda file: save_model(create_model("small_cnn", 2), file),
    "network.safetensors": lambda file: save_model(
        create_model("small_cnn", 2), file
    ),
    "maps": write_maps,
    "features": lambda file: extract_features(
        create_model("small_cnn", 2), split(64), file=file
    ),
}


def _write_text(file):
    with atomic_write(file) as temp:
        temp.write_text("x" * 9999)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_with_its_place_and_leaves_nothing(tmp_path, name):
    file = tmp_path / "place" / name
    file.parent.mkdir()
    file.write_bytes(b"as before")
    if name in ("maps", "features"):
        file.unlink()  # else it would be read
    with files_of_at_most(3000), pytest.raises(OSError, match=FULL) as e:
        WRITERS[name](file)
    assert str(file.parent) in str(e.value) and "\n" not in str(e.value)
    if name not in ("maps", "features"):
        assert file.read_bytes() == b"as before"
    assert set(os.listdir(file.parent)) <= {name}


def test_a_full_disk_in_a_checkpoint_keeps_the_one_before(tmp_path):
    kept = Checkpoints(tmp_path, "run")
    kept.save(lambda: dict(step=1), last=True)
    big = dict(step=2, weights=torch.zeros(10_000))
    with files_of_at_most(9000), pytest.raises(OSError, match=FULL) as e:
        kept.save(lambda: big, last=True)
    assert f"{tmp_path}/next.pt can't be written" in str(e.value)
    assert kept.load()["step"] == 1 and os.listdir(tmp_path) == ["last.pt"]


def test_a_full_disk_in_the_cache_names_it_and_goes_on_later(
    tmp_path, small_disk, monkeypatch
):
    paths = photos(tmp_path / "photos", 120)  # 1.5 MB decoded
    monkeypatch.setenv("MASKTUNE_CACHE", str(small_disk))
    says = (
        f"{small_disk}/images can't be written: No space left on device. Make room"
    )
    with pytest.raises(OSError, match=f"{says}, or name another folder.*CACHE"):
        decode_images(paths)
    seen, real = [], image_cache._Files.planes
    monkeypatch.setattr(
        image_cache._Files, "planes", lambda *a: seen.append(a) or real(*a)
    )
    subprocess.run(["mount", "-o", "remount,size=4M", small_disk], check=True)
    decoded = decode_images(paths).images
    assert 0 < len(seen) < 120, "what was decoded is kept"
    for i in (0, 60, 119):
        want = np.asarray(Image.open(paths[i])).transpose(2, 0, 1)
        assert (decoded[i].numpy() == want).all()


def test_a_full_disk_while_a_data_set_is_read_names_the_cache(tmp_path):
    images = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
    items = [(image, i % 2) for i, image in enumerate(images)]
    with files_of_at_most(9000), pytest.raises(OSError, match=FULL) as e:
        Split.from_dataset(items)
    assert f"{cache_root()}/images can't be written" in str(e.value)
    assert os.listdir(cache_root() / "images") == []


@pytest.mark.slow
def test_a_full_disk_in_fit_names_the_place(
    tmp_path, small_disk, monkeypatch, capsys
):
    for name in ("cat", "dog"):
        photos(tmp_path / "photos" / name, 60)
    words = ["fit", str(tmp_path / "photos"), "--network", "small_cnn"]
    words += ["--epochs", "1", "--threads", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as e:
        main([*words, "--out", str(small_disk / "run")])
    assert str(e.value).startswith(f"masktune: {small_disk}/run"), e.value
    assert "can't be written: No space left on device. Make room" in str(e.value)
    subprocess.run(["mount", "-o", "remount,size=30M", small_disk], check=True)
    main([*words, "--out", str(small_disk / "run")])
    assert "MaskTune" in capsys.readouterr().out
    small_cache = small_disk / "cache"
    monkeypatch.setenv("MASKTUNE_CACHE", str(small_cache))
    (small_disk / "ballast").write_bytes(os.urandom(100_000))
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(100_000 + free - 400_000))
    with pytest.raises(SystemExit) as e:
        main([*words, "--out", str(tmp_path / "other")])
    assert f"{small_cache}/images can't be written" in str(e.value), "not the run"


# --- read-only and somebody else's --------------------------------------------------------


def as_nobody(code, **environment):
    "Run Python as a user who owns nothing; what it printed"
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, to become somebody else")
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    root = Path(image_cache.__file__).parents[2]
    environment = {"HOME": "/nonexistent", "PYTHONPATH": str(root)} | environment
    done = subprocess.run(
        [*drop, sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    if "Permission denied" in done.stderr and not done.stdout:
        pytest.skip(f"others can't start this Python: {done.stderr[-300:]}")
    return done.stdout + done.stderr


DECODE = """
from masktune.data.image_cache import decode_images
try:
    print("found", int(decode_images({paths}).images.sum()))
except OSError as e:
    print("says:", e)
"""


@pytest.fixture
def readable():
    "A folder that everybody may enter; pytest's own are closed to others"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_complete_cache_of_another_user_is_used(readable, monkeypatch):
    paths = photos(readable / "photos")
    cache = readable / "cache"
    monkeypatch.setenv("MASKTUNE_CACHE", str(cache))
    total = int(decode_images(paths).images.sum())
    names = [str(p) for p in paths]
    assert f"found {total}" in as_nobody(DECODE.format(paths=names))
    incomplete = as_nobody(DECODE.format(paths=names[:3]))
    assert f"says: {cache}/images can't be written: Permission denied" in incomplete
    assert "MASKTUNE_CACHE" in incomplete


def test_a_complete_cache_on_a_read_only_disk_is_used(
    tmp_path, small_disk, monkeypatch
):
    paths = photos(tmp_path / "photos")
    monkeypatch.setenv("MASKTUNE_CACHE", str(small_disk))
    first = decode_images(paths).images.clone()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert decode_images(paths).images.equal(first)
    for path in paths:
        path.touch()  # so that the hashes can't be looked up, nor stored
    assert decode_images(paths).images.equal(first)
    with pytest.raises(OSError, match="images can't be written: Read-only file"):
        decode_images(paths[:3])


ASK_AGAIN = """
from masktune.runs.execute import run_experiment
from masktune.runs.cli import main
print("same:", run_experiment({notebook!r}, {run!r}, seed=3) == __import__("pathlib").Path({executed!r}))
main(["status", {runs!r}])
try:
    run_experiment({notebook!r}, {runs!r} + "/other", seed=4)
except OSError as e:
    print("says:", e)
"""


def test_a_finished_run_of_another_user_can_be_asked_for_again(readable):
    from masktune.runs.execute import run_experiment
    from throwaway import WRITES, notebook

    nb = notebook(readable / "tiny.ipynb", WRITES)
    runs = readable / "runs"
    executed = run_experiment(nb, runs / "one", seed=3)
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    said = as_nobody(
        ASK_AGAIN.format(
            notebook=str(nb),
            run=str(runs / "one"),
            executed=str(executed),
            runs=str(runs),
        )
    )
    assert "same: True" in said and "| finished" in said, said
    assert f"{runs}/other/run.json can't be written: Permission denied" in said
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before


# --- failing: other bytes than were written -------------------------------------------------


def test_a_changed_image_in_the_cache_is_decoded_again(tmp_path):
    paths = photos(tmp_path / "photos")
    first = decode_images(paths)
    want, file = first.images.clone(), cache_root() / "images" / f"{first.key}.u8"
    for at in (0, 0.5, 0.9999):
        flip(file, at)
    with pytest.warns(
        UserWarning, match="3 of 12 images in .* are not as they were"
    ):
        assert decode_images(paths).images.equal(want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_images(paths).images.equal(want), "it is whole again"


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "sums", "no sums"])
def test_a_cache_of_another_length_is_made_again(tmp_path, damage):
    paths = photos(tmp_path / "photos")
    first = decode_images(paths)
    want, file = first.images.clone(), cache_root() / "images" / f"{first.key}.u8"
    sums, content = file.with_suffix(".sums"), file.read_bytes()
    if damage == "sums":
        sums.write_bytes(sums.read_bytes()[:-3])
    elif damage == "no sums":
        sums.unlink()
    else:
        other = dict(cut=content[:-7], longer=content + b"x", empty=b"")[damage]
        file.write_bytes(other)
    with pytest.warns(UserWarning, match="decoded again"):
        assert decode_images(paths).images.equal(want)


def test_what_was_decoded_before_an_interruption_is_checked_too(
    tmp_path, monkeypatch
):
    paths, real, n = photos(tmp_path / "photos", 40), image_cache._Files.planes, []

    def stops(*args):
        n.append(args)
        if len(n) > 20:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(image_cache._Files, "planes", stops)
    with pytest.raises(KeyboardInterrupt):
        decode_images(paths)
    monkeypatch.setattr(image_cache._Files, "planes", real)
    (part,) = (cache_root() / "images").glob("*.part")
    flip(part, 0.01)
    for path, image in zip(paths, decode_images(paths).images):
        assert (
            image.permute(1, 2, 0).numpy() == np.asarray(Image.open(path))
        ).all()


def test_a_picture_replaced_while_it_is_read_is_not_kept_as_the_other(
    tmp_path, monkeypatch
):
    paths, real = photos(tmp_path / "photos"), image_cache._cache_file
    other = photos(tmp_path / "others", 13)[12]

    def replaces(*args):
        shutil.copy(other, paths[3])
        return real(*args)

    monkeypatch.setattr(image_cache, "_cache_file", replaces)
    with pytest.raises(ValueError, match="1 of 12 .*03.png .*changed while it was"):
        decode_images(paths)
    monkeypatch.setattr(image_cache, "_cache_file", real)
    image = decode_images(paths).images[3].permute(1, 2, 0).numpy()
    assert (image == np.asarray(Image.open(other))).all()


def test_a_picture_of_the_same_size_and_time_is_seen_as_another(tmp_path):
    paths = photos(tmp_path / "photos")
    raw = [tmp_path / f"{i}.bmp" for i in range(2)]  # of equal sizes
    for path, source in zip(raw, paths):
        Image.open(source).save(path)
    first, stat = decode_images(raw[:1]), raw[0].stat()
    raw[0].write_bytes(raw[1].read_bytes())
    os.utime(raw[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert raw[0].stat().st_size == stat.st_size
    again = decode_images(raw[:1])
    assert again.key != first.key and not again.images.equal(first.images)
    os.replace(raw[1], raw[0])  # another file with that name, and an older time
    os.utime(raw[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert decode_images(raw[:1]).key == again.key


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 1000, None])
def test_a_damaged_list_of_hashes_is_made_again(tmp_path, content):
    paths = photos(tmp_path / "photos")
    first = decode_images(paths)
    (memo,) = (cache_root() / "files").iterdir()
    memo.write_bytes(content) if content is not None else flip(memo, 0.3)
    assert decode_images(paths).key == first.key


def test_a_passing_error_of_the_disk_is_not_remembered(tmp_path, monkeypatch):
    paths, real = photos(tmp_path / "photos"), Path.read_bytes

    def fails(path):
        if path.name == "03.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(ValueError, match="1 of 12 images can't be read.*03.png"):
        decode_images(paths)
    monkeypatch.setattr(Path, "read_bytes", real)
    assert len(decode_images(paths).images) == 12


STORED = ["net.pt", "net.safetensors", "maps.pt", "features.pt", "last.pt"]


def read_stored(file):
    net = create_model("small_cnn", 2)
    if file.name.startswith("net"):
        return load_model(file).state_dict()
    if file.name == "maps.pt":
        return SaliencyMaps.load(file).values
    if file.name == "features.pt":
        return extract_features(net, split(64), file=file).images
    return Checkpoints(file.parent, "run").load()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_noticed(tmp_path, name, at):
    net, file = create_model("small_cnn", 2), tmp_path / name
    if name.startswith("net"):
        save_model(net, file)
    elif name == "maps.pt":
        compute_maps(net, split(64), file=file)
    elif name == "features.pt":
        extract_features(net, split(64), file=file)
    else:
        state = dict(weights=net.state_dict())
        Checkpoints(tmp_path, "run").save(lambda: state, last=True)
    assert read_stored(file) is not None
    flip(file, at)
    if name == "last.pt":
        with pytest.warns(UserWarning, match="last.pt is damaged"):
            assert read_stored(file) is None
        return
    with pytest.raises(ValueError, match="damaged"):
        read_stored(file)


@pytest.mark.parametrize("kept", [None, [], 3, {}, {"made_from": 1}, {"values": 2}])
def test_a_file_of_tensors_that_holds_something_else_is_one_sentence(
    tmp_path, kept
):
    file = tmp_path / "file"
    write_tensors(kept, file)
    with pytest.raises(ValueError, match="holds no maps"):
        SaliencyMaps.load(file, weights="0")
    with pytest.raises(ValueError, match="holds no features"):
        extract_features(create_model("small_cnn", 2), split(), file=file)
    with pytest.raises(ValueError, match="holds no weights"):
        load_model(file)


# --- sentences -----------------------------------------------------------------------


def test_an_error_about_another_file_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file.*/nowhere/source'"):
        with atomic_write(tmp_path / "file"):
            open("/nowhere/source")
    with pytest.raises(FileExistsError, match="file/below.txt can't be written"):
        (tmp_path / "file").touch()
        with atomic_write(tmp_path / "file" / "below.txt"):
            pass
    with pytest.raises(IsADirectoryError, match="place can't be written: Is a dir"):
        (tmp_path / "place").mkdir()
        with atomic_write(tmp_path / "place") as temp:
            temp.touch()
    assert sorted(os.listdir(tmp_path)) == ["file", "place"]


def test_a_sentence_is_not_wrapped_twice(tmp_path):
    with pytest.raises(OSError) as e:
        with explain_disk_error(tmp_path), explain_disk_error(tmp_path / "inner"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(e.value).count("can't be written") == 1 and "inner" in str(e.value)


def test_tensors_come_back_as_they_were(tmp_path):
    content = dict(a=torch.arange(3).half(), b=[torch.tensor(True), "text", None])
    write_tensors(content, tmp_path / "new" / "file")
    again = read_tensors(tmp_path / "new" / "file")
    assert again["a"].equal(content["a"]) and again["b"][1:] == ["text", None]
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")


# --- places that nobody thinks of ---------------------------------------------------------


def test_without_a_home_a_run_still_has_a_kernel(tmp_path):
    from throwaway import WRITES, notebook

    nb = notebook(tmp_path / "tiny.ipynb", WRITES)
    (temporary := tmp_path / "temporary").mkdir()
    words = ["run", str(nb), "--out", str(tmp_path / "runs")]
    homeless = dict(HOME="/dev/null", TMPDIR=str(temporary))
    done = command(*words, environment=homeless, stdout=subprocess.PIPE)
    assert "tiny.ipynb: " in done.stdout, done.stderr
    assert not list(temporary.glob("masktune-*"))


def command(*words, environment=(), **options):
    code = "import sys; from masktune.runs.cli import main; main(sys.argv[1:])"
    root = str(Path(image_cache.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | dict(PYTHONPATH=root) | dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_goes_to_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = command("list", stdout=full)
    says = (
        "masktune: No space left on device where the output of this command goes."
    )
    assert done.stderr.strip() == says and done.returncode == 1


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    (here := tmp_path / "here").mkdir()
    code = (
        f"import os; os.rmdir({str(here)!r})\n"
        "from masktune.runs.cli import main; main(['status'])"
    )
    root = str(Path(image_cache.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | dict(PYTHONPATH=root),
        capture_output=True,
        text=True,
        cwd=here,
    )
    says = "masktune: the working directory is gone: change into another."
    assert done.stderr.strip() == says and done.returncode == 1
