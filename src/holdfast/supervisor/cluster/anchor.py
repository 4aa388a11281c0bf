"""The first process of a stand-in node: makes its namespaces a node, then reaps what dies there, until it is killed.

Run as a file (`python -I -S anchor.py NAME DIRECTORY`, the arguments for people who look at the list of processes) by
`namespaces`, in namespaces that are new. It imports nothing of Holdfast: a start costs milliseconds. When it is killed the
kernel kills everything in its process-id namespace; its mounts and its network go with the last of it.

Its standard input is a socket to who made it, lines of JSON: it says hello, is told the host name and the mounts, says
that it is ready, and is told to stay. A maker that dies before that leaves nothing behind: the socket's end ends it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
from typing import Any, NoReturn

_DEADLINE = 30.0  # seconds to wait for the maker's next word
_BIND = 4096  # MS_BIND


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    link = socket.socket(fileno=os.dup(0))
    link.settimeout(_DEADLINE)
    lines = link.makefile("r", encoding="utf-8")
    # /proc is still that of the process-id namespace around this one: the number by which we are known there.
    _say(link, {"pid": int(os.readlink("/proc/self"))})
    order = lines.readline()
    if not order:
        return 1
    try:
        _set_up(json.loads(order))
    except OSError as error:
        _say(link, {"error": str(error)})
        return 1
    _say(link, {"ready": True})
    if not lines.readline():
        return 1
    lines.close()
    link.close()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return _reap()


def _say(link: socket.socket, words: dict[str, Any]) -> None:
    link.sendall(json.dumps(words).encode() + b"\n")


def _set_up(order: dict[str, Any]) -> None:
    """`host`: the host name; `mounts`: [kind, source, target, options] each, kind "bind" or a file system's."""
    os.chdir("/")
    socket.sethostname(order["host"])
    for kind, source, target, options in order["mounts"]:
        _mount(kind, source, target, options)


def _mount(kind: str, source: str, target: str, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _BIND if kind == "bind" else 0
    words = [os.fsencode(word) for word in (source, target, kind, options)]
    if libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source} on {target}: {os.strerror(number)}")


def _reap() -> NoReturn:
    """Takes note of every death in the namespace, as its first process has to. Does not return."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    raise SystemExit(main())
