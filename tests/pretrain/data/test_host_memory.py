from __future__ import annotations

import os
from pathlib import Path

import pytest
from hjepa_pretrain.data.batches import available_memory


def write(folder: Path, **texts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine on which 8,000,000 bytes are available; the process is in the group /job/step."""
    write(tmp_path / "proc", meminfo="MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB")
    write(tmp_path / "proc" / "self", cgroup="4:memory:/elsewhere\n0::/job/step")
    return tmp_path


def available(machine: Path) -> int:
    return available_memory(proc=machine / "proc", cgroups=machine / "groups")


def test_available__is_what_the_kernel_calls_so_without_a_limit(machine: Path) -> None:
    assert available(machine) == 8000 * 1024
    write(machine / "groups" / "job" / "step", memory_max="max", memory_current=5)
    assert available(machine) == 8000 * 1024


def test_available__is_what_the_tightest_group_has_left(machine: Path) -> None:
    write(machine / "groups" / "job" / "step", memory_max=6_000_000, memory_current=1_000_000)
    assert available(machine) == 5_000_000
    write(machine / "groups" / "job", memory_max=9_000_000, memory_current=7_000_000)
    assert available(machine) == 2_000_000
    write(machine / "groups" / "job", memory_stat="anon 2000000\nfile 5000000\ninactive_file 500000\nactive_file 1")
    assert available(machine) == 2_500_000, "read files are let go of"
    write(machine / "groups", memory_max=1_000_000, memory_current=1_200_000)
    assert available(machine) == 0


def test_available__inside_a_container_the_mounted_group_is_its_own(machine: Path) -> None:
    write(machine / "groups", memory_max=3_000_000, memory_current=1_000_000)
    assert available(machine) == 2_000_000, "the group that the process names is not mounted here"
    write(machine / "proc" / "self", cgroup="0::/")
    assert available(machine) == 2_000_000


def test_available__a_system_without_proc_counts_all_physical_memory(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(proc=tmp_path, cgroups=tmp_path) == physical


def test_available__of_this_machine_is_a_part_of_its_memory() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
