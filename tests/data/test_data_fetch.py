import dataclasses
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench import data
from bench.data import archives
from bench.errors import UserError

BODY = bytes(range(256)) * 4096  # 1 MiB
FILE = archives.ARCHIVES["cifar10"].file


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        mode, body = self.server.mode, self.server.body
        if mode == "404":
            self.send_error(404, "Not Found")
            return
        start = 0
        if (wanted := self.headers.get("Range")) and mode != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : 300_000 if mode == "cut" else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    entry = dataclasses.replace(
        archives.ARCHIVES["cifar10"], size=len(BODY), sha256=hashlib.sha256(BODY).hexdigest()
    )
    monkeypatch.setitem(archives.ARCHIVES, "cifar10", entry)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.mode, server.body, server.asked = "ok", BODY, []
    server.url = f"http://127.0.0.1:{server.server_port}/files"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, **more):
    return data.fetch("cifar10", folder, base_url=server.url, **more)


def test_the_archive_is_downloaded_once_and_progress_told(server, tmp_path):
    told = []
    path = fetch(server, tmp_path / "new" / "data", progress=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "new" / "data" / FILE
    assert path.read_bytes() == BODY
    assert told[0] == (0, len(BODY))
    assert told[-1] == (len(BODY), len(BODY))
    assert told == sorted(told)
    assert fetch(server, path.parent) == path
    assert server.asked == [(f"/files/{FILE}", None)]
    assert not list(path.parent.glob("*.part"))


def test_the_data_folder_comes_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("METADD_DATA", str(tmp_path / "d"))
    assert data.fetch("cifar10[5]", base_url=f"{server.url}/") == tmp_path / "d" / FILE


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.mode = "cut"
    with pytest.raises(
        UserError, match=r"cannot download http://.*/files/cifar.* \(.*\): run again to go on, or put"
    ):
        fetch(server, tmp_path)
    assert (tmp_path / f"{FILE}.part").stat().st_size == 300_000
    server.mode = "ok"
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.asked[1] == (f"/files/{FILE}", "bytes=300000-")


def test_a_server_without_ranges_sends_it_all(server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(BODY[:1000])
    server.mode = "no ranges"
    assert fetch(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("left", [BODY, BODY + b"more"])
def test_a_part_that_is_full_or_too_long(server, tmp_path, left):
    (tmp_path / f"{FILE}.part").write_bytes(left)
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == ([] if left == BODY else [None])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (BODY[:-1] + b"x", "SHA-256 .{12}… instead of .{12}…"),
        (BODY + b"x", "1048577 bytes instead of 1048576"),
    ],
)
def test_another_file_is_deleted_and_refused(server, tmp_path, body, reason):
    server.body = body
    with pytest.raises(
        UserError, match=rf"is not the official archive \({reason}\): the download was deleted"
    ):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("cifar*"))


def test_a_failing_network_says_where_to_put_the_file(server, tmp_path):
    server.mode = "404"
    with pytest.raises(
        UserError, match=rf"cannot download {server.url}/{FILE} \(Not Found\).*{tmp_path}/{FILE}$"
    ):
        fetch(server, tmp_path)
    with pytest.raises(UserError, match=r"cannot download http://127.0.0.1:1/.*refused"):
        data.fetch("cifar10", tmp_path, base_url="http://127.0.0.1:1")


def test_a_damaged_archive_that_is_there_is_left_to_the_user(server, tmp_path):
    (tmp_path / FILE).write_bytes(b"mine")
    with pytest.raises(
        UserError, match=r"is damaged \(4 bytes instead of 1048576\): delete it, then metadd-bench"
    ):
        fetch(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"mine"
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "comes with scikit-learn"),
        ("imagefolder:x", "folder of your own"),
        ("cifar11", "unknown dataset"),
    ],
)
def test_what_cannot_be_downloaded(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        data.fetch(name, tmp_path)


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file: File exists$"):
        data.fetch("cifar10", tmp_path / "file")
