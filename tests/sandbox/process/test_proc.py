"""What the kernel tells of processes, and what it is asked by."""

from pathlib import Path

import pytest

from supervisor.sandbox.process import proc


def test_boot_that_is_hidden_from_us_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under the unit without its drop-in: the words name the setting."""
    monkeypatch.setattr(proc, "_BOOT_ID", str(tmp_path / "hidden"))
    proc.boot_id.cache_clear()
    with pytest.raises(FileNotFoundError, match="ProcSubset=all"):
        proc.boot_id()
