"""Run code that a model wrote: in bubblewrap, without network, with a read-only file system, and with limits."""

import json
import shutil
import subprocess
import sys

SECONDS = 10  # of processor time
MEMORY = 1 << 30  # bytes of addresses
WRAP = [
    *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp"),
    *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
]
# Limits are set inside, before the program is compiled; a process cannot raise its own again.
PRELUDE = """
import json, resource, sys
program, seconds, memory = json.loads(sys.stdin.read())
for limit, value in (("CPU", seconds), ("AS", memory), ("FSIZE", 1 << 20), ("NPROC", 64), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (value, value))
sys.stdin.close()
exec(compile(program, "response", "exec"), {"__name__": "__main__"})
"""


class SandboxMissing(RuntimeError):
    """There is no sandbox on this machine; the message says why."""


def runs(program: str, *, seconds: int = SECONDS) -> bool:
    """Whether a Python program ends without an error in a sandbox, in at most ``seconds``. Its output is not kept."""
    content = json.dumps([program, seconds, MEMORY])
    try:
        done = subprocess.run(
            [*WRAP, sys.executable, "-I", "-c", PRELUDE],
            input=content, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=2 * seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:  # asleep, which takes no processor time
        return False
    return done.returncode == 0


def check_sandbox() -> None:
    """Raise SandboxMissing unless programs run in a sandbox here."""
    if shutil.which("bwrap") is None:
        raise SandboxMissing("bwrap is not found: install bubblewrap, as by apt-get install bubblewrap")
    if not runs("import math"):
        raise SandboxMissing("bwrap cannot start a program here: the kernel may not allow user namespaces")
