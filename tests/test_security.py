"What comes from others: names, reports, archives, downloads, files of another shape. See SECURITY.md."

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbformat.v4 as nbf
import pytest

from masktune.data import sources
from masktune.data.sources import download_dataset, download_file
from masktune.runs.report import render_report

# --- reports -----------------------------------------------------------------------

# each would write into the page's <html> element, where the tests look for it
ACTS = "document.documentElement.setAttribute(&quot;hurt&quot;,&quot;{}&quot;)"
HOSTILE = {
    "script": f"<script>{ACTS}</script>".replace("&quot;", '"'),
    "onerror": f'<img src=x onerror="{ACTS}">',
    "svg": f'<svg onload="{ACTS}"></svg>',
    "style": f'<div style="width: expression({ACTS})" onclick="{ACTS}">a</div>',
    "details": f'<details open ontoggle="{ACTS}">a</details>',
    "focus": f'<input autofocus onfocus="{ACTS}">',
    "frame": f"<iframe srcdoc='<script>parent.{ACTS}</script>'></iframe>",
    "object": f'<object data="javascript:{ACTS}"></object>',
    "meta": '<meta http-equiv="refresh" content="0; url=https://example.org/">',
    "base": '<base href="https://example.org/">',
    "nested": f"<scr<script></script>ipt>{ACTS}</scr<script></script>ipt>",
    "broken": f'"><img src=x onerror="{ACTS}"',
    "comment": f'<!--><img src=x onerror="{ACTS}">-->',
    "textarea": f'<textarea></textarea><img src=x onerror="{ACTS}">',
    "math": f'<math><mtext><style><img src=x onerror="{ACTS}"></style></mtext></math>',
}
LINKS = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "&#106;avascript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "&#100;ata:text/html,<script>alert(1)</script>",
    "vbscript:alert(1)",
]


def executed_notebook(path, text):
    "A notebook with `text` in all that a cell can print, and in nothing else"
    outputs = [
        nbf.new_output("stream", name="stdout", text=text),
        *(
            nbf.new_output("display_data", {kind: text})
            for kind in (
                "text/markdown",
                "text/html",
                "text/plain",
                "image/svg+xml",
            )
        ),
        nbf.new_output("display_data", {"application/javascript": "alert(1)"}),
        nbf.new_output(
            "display_data", {"text/markdown": f"| a |\n|---|\n| {text} |"}
        ),
        nbf.new_output("error", ename=text, evalue=text, traceback=[text]),
    ]
    cells = [
        nbf.new_markdown_cell("# A report\n\n> With **bold**"),
        nbf.new_code_cell("show()", outputs=outputs),
    ]
    path.write_text(json.dumps(nbf.new_notebook(cells=cells)))
    return path


def browse(path):
    "The page as a headless browser has it after its scripts ran; '' if it didn't start"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    profile = path.parent / "profile"
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=1000"]
    try:
        done = subprocess.run(
            [*command, "--dump-dom", f"file://{path}"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_hostile_names_do_nothing_in_a_browser(tmp_path):
    acts = {name: text.replace("{}", name) for name, text in HOSTILE.items()}
    plain = tmp_path / "plain.html"
    plain.write_text(f"<!DOCTYPE html><html><body>{acts['onerror']}</body></html>")
    dom = browse(plain)
    if not dom:
        pytest.skip("chromium doesn't start here")
    assert 'hurt="onerror"' in dom, (
        "the same text does act where nothing is escaped"
    )
    nb = executed_notebook(tmp_path / "nb.ipynb", "\n\n".join(acts.values()))
    report = tmp_path / "report.html"
    report.write_text(render_report(nb, acts))
    dom = browse(report)
    assert "How it was made" in dom and "A report" in dom
    assert "hurt=" not in dom.partition("<body")[0]
    body = dom.partition("<body")[2]
    assert "<script" not in body and "<iframe" not in body and "<object" not in body
    tags = re.findall(r"<[a-z][^>]*>", body)
    assert tags and not [t for t in tags if re.search(r"\son\w+\s*=", t)]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_report_is_free_of_what_acts(tmp_path, name):
    text = HOSTILE[name].replace("{}", name)
    page = render_report(
        executed_notebook(tmp_path / "nb.ipynb", text), {name: text}
    )
    head, _, body = page.partition("<body>")
    assert "Content-Security-Policy" in head and "default-src 'none'" in head
    tags = re.findall(r"<[a-zA-Z/!][^>]*>", body)
    wrong = (
        r"(?i)<(script|iframe|object|embed|svg|meta|base|link|input|form|style)\b"
    )
    assert not [t for t in tags if re.search(wrong, t)]
    assert not [t for t in tags if re.search(r"(?i)\son\w+\s*=", t)]
    assert not [
        t for t in tags if re.search(r"(?i)src\s*=\s*.?(?!data:image)\w", t)
    ]
    assert "<strong>bold</strong>" in body, "what the author wrote stays"


@pytest.mark.parametrize("target", LINKS)
def test_links_to_code_are_removed(tmp_path, target):
    text = (
        f'<a href="{target}">a</a>\n\n[b]({target})\n\n<a href="https://a.b/">c</a>'
    )
    page = render_report(executed_notebook(tmp_path / "nb.ipynb", text))
    links = re.findall(r"""<a\s[^>]*href\s*=\s*["']?([^"'>]*)""", page)
    assert "https://a.b/" in links, "ordinary links stay"
    for link in links:
        assert link.startswith(("https://a.b/", "#")) or ":" not in link, link


def test_a_name_is_shown_as_it_is_written(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    nb = executed_notebook(tmp_path / "nb.ipynb", name)
    page = render_report(nb, {"class": name})
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 4


# --- downloads -----------------------------------------------------------------------

CONTENT = bytes(range(256)) * 100
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    "A server that sends CONTENT as its path says: /honest, /half, /longer, ..."

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            how = self.path[1:]
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            body, length = CONTENT[start:], len(CONTENT) - start
            if how == "garbage":
                self.wfile.write(b"\x00\xff not http at all\r\n\r\n")
                return
            if how == "missing":
                return self.send_error(404)
            if how == "complete":
                return self.send_error(416)
            self.send_response(206)
            lies = dict(longer=length + 5000, shorter=length - 5000)
            lies |= dict(nonsense="many", negative=-1)
            if how not in ("silent", "endless"):
                self.send_header("Content-Length", str(lies.get(how, length)))
            self.end_headers()
            if how == "half":
                body = body[: len(body) // 2]
            if how == "other":
                body = b"x" * len(body)
            if how == "endless":
                body = b"x" * 300_000
            self.wfile.write(body)

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


@pytest.mark.parametrize("how", ["honest", "silent", "negative"])
def test_a_file_arrives(server, tmp_path, how):
    path = download_file([f"{server}/{how}"], tmp_path / "a" / "file", MD5)
    assert path.read_bytes() == CONTENT and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    "how,says",
    [
        ("half", "the connection was cut off"),
        ("longer", "the connection was cut off"),
        ("shorter", "its md5 is .*, not"),
        ("other", f"its md5 is .*, not {MD5}"),
        ("nonsense", "doesn't say how long"),
        ("garbage", "could not be fetched"),
        ("missing", "404"),
        ("complete", "could not be fetched"),
    ],
)
def test_a_server_that_lies_or_stops_is_one_sentence(server, tmp_path, how, says):
    with pytest.raises(
        ConnectionError, match=f"file could not be fetched.*{says}|{says}"
    ):
        download_file([f"{server}/{how}"], tmp_path / "file", MD5)
    assert not (tmp_path / "file").exists()
    assert set(os.listdir(tmp_path)) <= {"file.part"}
    assert (
        download_file(  # and the next address is asked
            [f"{server}/{how}", f"{server}/honest"], tmp_path / "file", MD5
        ).read_bytes()
        == CONTENT
    )


def test_a_server_that_never_ends_is_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_LARGEST", 100_000)
    with pytest.raises(ConnectionError, match="it is larger than"):
        download_file([f"{server}/endless"], tmp_path / "f", MD5)
    assert (tmp_path / "f.part").stat().st_size < 300_000


def test_no_server_is_one_sentence(tmp_path):
    with pytest.raises(ConnectionError, match="file could not be fetched"):
        download_file(["http://127.0.0.1:9/file"], tmp_path / "file", MD5)


# --- archives -----------------------------------------------------------------------


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


CLIMBING = {
    "parent": [member("../evil")],
    "deep parent": [member("a/b/../../../evil")],
    "absolute": [member("{outside}/evil")],
    "link out": [member("out", tarfile.SYMTYPE, ".."), member("out/evil")],
    "absolute link": [
        member("out", tarfile.SYMTYPE, "{outside}"),
        member("out/evil"),
    ],
    "hard link out": [member("out", tarfile.LNKTYPE, "../secret")],
    "device": [member("null", tarfile.CHRTYPE)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
}


def unpack(archive, name, root, monkeypatch):
    "As `download_dataset` does, with this archive as the published file"
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    files = "", [(archive.name, [archive.as_uri()], md5)]
    monkeypatch.setattr(sources, "published_files", lambda name: files)
    (root / archive.name).write_bytes(archive.read_bytes())
    download_dataset(name, root)


@pytest.mark.parametrize("how", CLIMBING)
def test_a_tar_that_climbs_writes_nothing_outside(tmp_path, monkeypatch, how):
    root, archive = tmp_path / "in" / "root", tmp_path / "cifar.tar.gz"
    root.mkdir(parents=True)
    (tmp_path / "in" / "secret").write_text("kept")
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for info in CLIMBING[how]:
            info = tarfile.TarInfo.frombuf(info.tobuf(), "utf-8", "strict")
            info.name = info.name.format(outside=outside)
            info.linkname = info.linkname.format(outside=outside)
            tar.addfile(info, io.BytesIO())
    try:
        unpack(archive, "cifar10", root, monkeypatch)
    except ValueError as e:
        assert f"{root / archive.name} can't be unpacked" in str(e)
    everywhere = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    inside = {p for p in everywhere if p.startswith("in/root/")}
    assert everywhere - inside == {
        "in",
        "in/root",
        "in/secret",
        "outside",
        "cifar.tar.gz",
    }
    assert (tmp_path / "in" / "secret").read_text() == "kept"
    kept = [p for p in root.rglob("*") if p.is_symlink() or not p.is_file()]
    assert not [p for p in kept if not p.resolve().is_relative_to(root)]


def test_a_zip_that_climbs_writes_nothing_outside(tmp_path, monkeypatch):
    (root := tmp_path / "root").mkdir()
    archive = tmp_path / "gzip.zip"
    names = ["../emnist-digits-a", "/emnist-digits-b", "x/../../emnist-digits-c"]
    with zipfile.ZipFile(archive, "w") as z:
        for name in [*names, "../other", "emnist-digits-d"]:
            z.writestr(name, "content")
    unpack(archive, "emnist", root, monkeypatch)
    assert sorted(os.listdir(tmp_path)) == ["gzip.zip", "root"]
    assert sorted(os.listdir(root)) == [
        *(f"emnist-digits-{c}" for c in "abcd"),
        "gzip.zip",
    ]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, kind):
    "200 MB of zeros in 200 kB; the limit is set to 100 MB so that the test is quick"
    (root := tmp_path / "root").mkdir()
    zeros = b"\0" * (200 << 20)
    if kind == "zip":
        archive = tmp_path / "gzip.zip"
        with zipfile.ZipFile(
            archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as z:
            z.writestr("emnist-digits-bomb", zeros)
    else:
        archive = tmp_path / "cifar.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.addfile(member("bomb", size=len(zeros)), io.BytesIO(zeros))
    assert archive.stat().st_size < 2 << 20
    monkeypatch.setattr(sources, "_LARGEST", 100 << 20)
    with pytest.raises(ValueError, match="would take 0 GB unpacked"):
        unpack(archive, dict(zip="emnist", tar="cifar10")[kind], root, monkeypatch)
    assert os.listdir(root) == [archive.name]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_archive_is_one_sentence(tmp_path, monkeypatch, kind, damage):
    (root := tmp_path / "root").mkdir()
    archive = tmp_path / ("gzip.zip" if kind == "zip" else "cifar.tar.gz")
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as z:
            z.writestr("emnist-digits-a", os.urandom(9999))
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.addfile(member("a", size=9999), io.BytesIO(os.urandom(9999)))
    whole = buffer.getvalue()
    content = dict(cut=whole[: len(whole) // 2], text=b"not an archive", empty=b"")
    archive.write_bytes(content[damage])
    with pytest.raises(ValueError, match="can't be unpacked: .*Delete it"):
        unpack(archive, dict(zip="emnist", tar="cifar10")[kind], root, monkeypatch)


# --- the command -----------------------------------------------------------------------


def test_a_run_of_others_writes_nothing_outside_its_folder(tmp_path):
    "run.json may have been written by somebody else: its experiment is a plain name"
    from masktune.runs.execute import resume_run

    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    plan = dict(notebook="x", hash="0", given={}, parameters={}, threads=1)
    (folder / "run.json").write_text(
        json.dumps(plan | dict(experiment="../../evil"))
    )
    with pytest.raises(ValueError, match="run.json is damaged"):
        resume_run(folder)
    assert not (tmp_path / "evil.ipynb").exists()
