"""The control groups of a process, which limit what containers may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of the process' own group and all above, of cgroup v1 and v2.

    Args:
        controller: which controller's, where each has groups of its own (v1): ``"cpu"``.
        root: where ``proc/self/cgroup`` and ``sys/fs/cgroup`` are found.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            places = (mounts, mounts / "unified")
        elif controller in controllers.split(","):
            places = (mounts / controller, mounts / controllers)
        else:
            continue
        for place in places:
            yield from _upward(place, path)


def _upward(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a control group and all above it, as far as the mount shows them.

    In a container the path may be one of the host, which is not there, and the mount itself the
    container's group.
    """
    # A group outside of the namespace is written with "..".
    names = [name for name in path.split("/") if name not in ("", "..")]
    for count in range(len(names), -1, -1):
        yield mount.joinpath(*names[:count])
