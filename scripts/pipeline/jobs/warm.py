"""Run a script in a process that has imported torch and transformers already: those take longer than many a small job.

    python scripts/pipeline/jobs/warm.py scripts/tune.py --base ...        (as a rule does)

On one machine, Snakemake names a folder in WARM_FOLDER. The first job that comes starts a server there, which imports
what the jobs share, and does without it; those that come when it is ready are forked from it, with their own arguments,
environment, folder and streams. Nothing of ours is imported before the fork, so that every job runs the code that is on
disk. Without WARM_FOLDER (on a cluster, from a shell) the script is run as it is. The server ends with Snakemake.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress

IMPORTS = ("torch", "transformers", "alpaca_eval", "pyarrow.parquet")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
CLASSES = ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "LlamaForCausalLM", "PreTrainedTokenizerFast")


def main() -> None:
    """Be the server, or have a script run."""
    folder = os.environ.get("WARM_FOLDER", "")
    if sys.argv[1:2] == ["--serve"]:
        serve(folder)
        return
    if folder and os.path.isdir(folder):
        connection = reach(folder)
        if connection:
            sys.exit(ask(connection))
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def reach(folder: str) -> socket.socket | None:
    """A connection to the server. Where there is none yet, it is started, and this job does without."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"{folder}/socket")
        return connection
    except OSError:
        connection.close()
    try:
        os.close(os.open(f"{folder}/started", os.O_CREAT | os.O_EXCL))
    except OSError:
        return None
    with open(f"{folder}/log", "wb") as log:
        subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return None


def ask(connection: socket.socket) -> int:
    """Have the server run this process's script with its streams; its exit status. Signals are passed on."""
    order = json.dumps({"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(connection, [len(order).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(order)
    job = int.from_bytes(receive(connection, 8), "big")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(job, number))
    status = receive(connection, 8)
    if len(status) < 8:
        sys.exit("error: the process that ran this job was killed")
    status = int.from_bytes(status, "big", signed=True)
    if status < 0:  # by a signal: end by it, too
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the connection ends."""
    content = b""
    while len(content) < size and (part := connection.recv(size - len(content))):
        content += part
    return content


def serve(folder: str) -> None:
    """Import what jobs share, and fork one for each connection, until Snakemake is gone."""
    import shutil
    from importlib import import_module

    os.environ |= dict.fromkeys(THREADS, "1")  # of these, a job that wants more has to ask torch
    sys.path.pop(0)
    for name in IMPORTS:
        import_module(name)
    for name in CLASSES:
        getattr(sys.modules["transformers"], name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{folder}/socket.new")
    listening.listen(64)
    os.rename(f"{folder}/socket.new", f"{folder}/socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those who look after jobs ended
    parent = int(os.environ["SNAKEMAKE_PID"])
    while alive(parent):
        if select.select([listening], [], [], 1.0)[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                look_after(connection)
            connection.close()
    shutil.rmtree(folder, ignore_errors=True)  # when Snakemake was killed; else it has done so itself


def alive(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def look_after(connection: socket.socket) -> None:
    """Fork the job, wait until it ends, and say how; kill it when nobody waits for it any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    order = json.loads(receive(connection, int.from_bytes(head, "big")))
    job = os.fork()
    if job == 0:
        connection.close()
        become(order, streams)  # does not return
    for stream in streams:
        os.close(stream)
    connection.sendall(job.to_bytes(8, "big"))
    watch = os.pidfd_open(job)
    ready, _, _ = select.select([watch, connection], [], [])
    if watch not in ready:  # the one who asked is gone
        os.kill(job, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with suppress(OSError):
        connection.sendall(status.to_bytes(8, "big", signed=True))
    os._exit(0)


def become(order: dict, streams: list[int]) -> None:
    """Be the script that was ordered, as if Python had been started with it."""
    import atexit
    import threading
    import traceback
    import types

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = order["words"]
    script = os.path.abspath(sys.argv[0])
    sys.path.insert(0, os.path.dirname(script))
    sys.modules.pop("__mp_main__", None)  # joblib's other name for what was started, which is not this script
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__file__ = script
    status: object = 0
    try:
        with open(script, "rb") as file:
            exec(compile(file.read(), script, "exec"), sys.modules["__main__"].__dict__)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without taking apart, object by object, what was imported: that takes a second


if __name__ == "__main__":
    main()
