from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from hjepa_eval.features.fingerprint import canonical_json, hash_json, parse_json, read_regular, write_atomically


def test_hash_json__is_golden() -> None:
    # Golden: sha256 of {"a":"\u00e4","b":[1,2.5]} as UTF-8; a change would make every store unfindable.
    assert hash_json({"b": [1, 2.5], "a": "\u00e4"}).startswith("56d36f6cee8ef0b4")


def test_canonical_json__bytes_that_are_no_utf8_survive() -> None:
    strange = os.fsdecode(b"k\xe4se \xff")
    text = canonical_json({"name": strange})
    assert text == '{"name":"k\\udce4se \\udcff"}'
    assert json.loads(text.encode()) == {"name": strange}
    assert hash_json(strange) != hash_json("k\\udce4se \\udcff")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_write_atomically__mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_write_atomically__longest_name_fits_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically__failure_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_write_atomically__goes_through_links_even_to_nowhere(tmp_path: Path) -> None:
    for target, existed in (("old", True), ("new/deep", False)):
        link, file = tmp_path / f"link to {Path(target).name}", tmp_path / target
        if existed:
            file.write_bytes(b"before")
        link.symlink_to(target)
        write_atomically(link, b"after")
        assert link.is_symlink()
        assert not file.is_symlink()
        assert file.read_bytes() == b"after"


def test_write_atomically__replaces_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    said = {"pipe": "it is no regular file", "link": "it is no regular file", "folder": "Is a directory"}
    for name, message in said.items():
        with pytest.raises(OSError, match=message):
            write_atomically(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == set(said)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[" * 80 + "]" * 80, '{"a":' * 70 + "1" + "}" * 70, "1" * 5000, "", "\ud800"]
)
def test_parse_json__deep_and_absurd_documents_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_parse_json__reads_what_json_reads_and_a_byte_order_mark() -> None:
    wide = {"rows": [[number] for number in range(1000)]}
    assert parse_json(json.dumps(wide)) == wide
    assert parse_json(b"\xef\xbb\xbf" + b"[" * 60 + b"]" * 60)
    with pytest.raises(ValueError):
        parse_json(b"\xff")


def test_read_regular__does_not_wait_for_what_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError):
            read_regular(path)
    if Path("/proc/kmsg").exists() and os.access("/proc/kmsg", os.R_OK):
        assert read_regular(Path("/proc/kmsg")) == b""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(OSError, match="more than the"):
        read_regular(tmp_path / "sparse")
