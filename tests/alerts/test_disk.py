"""Looking at disks."""

from pathlib import Path

from supervisor.alerts.disk import look_at_disks
from supervisor.alerts.rules import DiskSpace


def test_look_asks_each_file_system_once(tmp_path: Path) -> None:
    """By the first path on it; what cannot be seen from here is left out."""
    (tmp_path / "below").mkdir()
    (found,) = look_at_disks((tmp_path / "absent", tmp_path, tmp_path / "below"))
    assert isinstance(found, DiskSpace)
    assert found.path == tmp_path
    assert found.free > 0
    assert len(look_at_disks((tmp_path, Path("/proc")))) == 2
