"""A command as an unprivileged user: `python -m local.drop_root USER COMMAND...`, for root.

PostgreSQL refuses to run as root. As another user it would have to reach its data and its binaries,
which a home with mode 0700, or a folder made by mktemp, keeps from it. Opening those folders to
others would change what is not ours, and for good. So the command keeps one of root's capabilities,
to pass through folders of any mode, and no permission changes anywhere.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

# From linux/capability.h and linux/prctl.h. The first is enough, and lets nothing be
# written; the root of a container has by default only the second.
CAP_DAC_READ_SEARCH = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
# Leave the capabilities alone when the user changes. It is kept over exec too, where access(2), by
# which initdb looks for its programs, would else ignore the capabilities of all but root.
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def become(user: str) -> None:
    """Become ``user`` for good, with one capability kept over exec where the kernel allows it."""
    entry = pwd.getpwnam(user)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        bits = libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
        libc.prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if libc is not None and not any(
        _keep(libc, capability) for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)
    ):
        # A sandbox refuses both: folders open to all still serve.
        _set_capabilities(libc, 0)


def _keep(libc: ctypes.CDLL, capability: int) -> bool:
    """Keep ``capability`` and no other, over exec too; whether that was allowed."""
    if not _set_capabilities(libc, 1 << capability):
        return False
    raised: int = libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    return raised == 0


def _set_capabilities(libc: ctypes.CDLL, kept: int) -> bool:
    sets = (_Sets * 2)(_Sets(kept, kept, kept), _Sets(0, 0, 0))
    status: int = libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets)
    return status == 0


if __name__ == "__main__":
    become(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the same process, as another user
