"""The download of the official archives: resumed where it stopped, verified before it counts."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.data.archives import ARCHIVES, Archive, mismatch, verify
from bench.data.places import data_folder, plain_errors
from bench.data.spec import parse
from bench.errors import UserError

Progress = Callable[[int, int], None]

_CHUNK = 1 << 18
_TIMEOUT = 60.0  # seconds without a byte
_NETWORK = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


def fetch(
    name: str, data_dir: Path | None = None, *, base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Download the official archive of ``name`` into the data folder (made if missing) and give its path.

    An archive that is there is verified and kept. An interrupted download leaves ``<archive>.part``, from
    which the next call goes on. ``progress(done, total)`` is called in bytes; ``base_url`` replaces the
    official host's. Raises UserError for a dataset that has no archive, an archive there that is damaged, a
    failing network (the part stays) and a download that is not the official archive (the part is deleted).
    """
    name = parse(name).name
    if name not in ARCHIVES:
        reason = "comes with scikit-learn" if name == "digits" else "is a folder of your own"
        raise UserError(f"{name} {reason}: there is nothing to download")
    archive = ARCHIVES[name]
    folder = data_folder(data_dir)
    target = folder / archive.file
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{archive.file}.lock"):
            if target.exists():
                verify(name, target)
            else:
                _download(archive, target, base_url or archive.base_url, progress or _silent)
    return target


def _silent(done: int, total: int) -> None:
    pass


def _download(archive: Archive, target: Path, base_url: str, progress: Progress) -> None:
    part = target.with_name(f"{archive.file}.part")
    url = f"{base_url.rstrip('/')}/{archive.file}"
    done = part.stat().st_size if part.exists() else 0
    if done != archive.size:
        try:
            _receive(url, part, archive.size, done if done < archive.size else 0, progress)
        except _NETWORK as error:
            reason = getattr(error, "reason", None) or error
            raise _no_network(url, target, str(reason)) from error
    if part.stat().st_size < archive.size:
        raise _no_network(url, target, "the connection ended early")
    if wrong := mismatch(part, archive):
        part.unlink()
        raise UserError(f"{url} is not the official archive ({wrong}): the download was deleted")
    part.replace(target)


def _receive(url: str, part: Path, size: int, start: int, progress: Progress) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        done = start if _continues(response, start) else 0
        with part.open("ab" if done else "wb") as file:
            progress(done, size)
            # One byte too many is enough to know that it is another file.
            while done <= size and (chunk := response.read(_CHUNK)):
                file.write(chunk)
                done += len(chunk)
                progress(done, size)


def _continues(response: Any, start: int) -> bool:
    """Whether the server sends the rest from ``start``; one that ignores Range sends all of it (200)."""
    sent = str(response.headers.get("Content-Range", ""))
    return start > 0 and response.status == 206 and sent.startswith(f"bytes {start}-")


def _no_network(url: str, target: Path, reason: str) -> UserError:
    return UserError(
        f"cannot download {url} ({reason}): run again to go on, or put the file by hand at {target}"
    )
