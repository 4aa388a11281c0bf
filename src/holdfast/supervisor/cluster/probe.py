"""Whether this machine lets this user make namespaces, found out by making some."""

from __future__ import annotations

import os
import shutil
import subprocess

UNSHARE = [
    "--net",
    "--uts",
    "--ipc",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
]  # what every stand-in has of its own
_DEADLINE = 20.0  # seconds
_TRY = (
    "ip link add holdfast0 type bridge && ip link add holdfast1 type veth peer name holdfast2 && "
    "mount -t proc proc /proc && mount -t tmpfs tmpfs /dev/shm"
)


def refusal() -> str | None:
    """Why this user can't make stand-in nodes on this machine, in words; None if they can be made. Makes and drops one."""
    return probe()[1]


def probe() -> tuple[bool, str | None]:
    """Whether the namespaces have to be within a user namespace, and what `refusal` says."""
    missing = [p for p in ("unshare", "nsenter", "setsid", "ip", "mount") if shutil.which(p) is None]
    if missing:
        return (
            False,
            f"there is no program {' and none '.join(map(repr, missing))} here (packages util-linux and iproute2)",
        )
    said = []
    for user in (False, True) if os.geteuid() == 0 else (True,):
        words = ["unshare", *within(user), *UNSHARE, "sh", "-c", _TRY]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE)
        except subprocess.TimeoutExpired:
            said.append(f"`unshare` did not end within {_DEADLINE:.0f} seconds")
            continue
        if done.returncode == 0:
            return user, None
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said.append(lines[-1] if lines else f"`unshare` ended with {done.returncode}")
    who = "root" if os.geteuid() == 0 else "a user who is not root, and in user namespaces"
    return False, f"the system refuses namespaces to {who}: {'; then, within a user namespace: '.join(said)}"


def within(user: bool) -> list[str]:
    """Words for `unshare` that come before `UNSHARE`."""
    return ["--user", "--map-root-user"] if user else []
