"""Run a script in a process that has already imported torch and transformers, which takes longer than many small jobs.

    python scripts/pipeline/jobs/warm.py scripts/tune.py --base ...        (as a rule does)

On a single machine, Snakemake sets WARM_FOLDER. The first job starts a server in that folder, which imports what the
jobs share, but does not use it; jobs that start once it is ready are forked from it, with their own arguments,
environment, working directory and streams. Nothing of ours is imported before the fork, so every job runs the code
on disk. Without WARM_FOLDER (on a cluster, from a shell) the script runs directly. The server ends with Snakemake.
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
    """Be the server, or run a script."""
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
    """Connect to the server. If there is none yet, start it and return None: this job does not use it."""
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
    """Let the server run this process's script with its streams; return the exit status. Signals are forwarded."""
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
    if status < 0:  # ended by a signal: end by the same one
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def receive(connection: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes, or fewer if the connection ends."""
    content = b""
    while len(content) < size and (part := connection.recv(size - len(content))):
        content += part
    return content


def serve(folder: str) -> None:
    """Import what jobs share, and fork one for each connection, until Snakemake ends."""
    import shutil
    from importlib import import_module

    os.environ |= dict.fromkeys(THREADS, "1")  # a job that needs more has to set them in torch
    sys.path.pop(0)
    for name in IMPORTS:
        import_module(name)
    for name in CLASSES:
        getattr(sys.modules["transformers"], name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{folder}/socket.new")
    listening.listen(64)
    os.rename(f"{folder}/socket.new", f"{folder}/socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody needs the exit status of supervisors
    parent = int(os.environ["SNAKEMAKE_PID"])
    while alive(parent):
        if select.select([listening], [], [], 1.0)[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                supervise(connection)
            connection.close()
    shutil.rmtree(folder, ignore_errors=True)  # if Snakemake was killed; otherwise it removes the folder itself


def alive(process: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def supervise(connection: socket.socket) -> None:
    """Fork the job, wait until it ends, and send its exit status; kill it once the client is gone."""
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
    if watch not in ready:  # the client is gone
        os.kill(job, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with suppress(OSError):
        connection.sendall(status.to_bytes(8, "big", signed=True))
    os._exit(0)


def become(order: dict, streams: list[int]) -> None:
    """Become the requested script, as if Python had been started with it."""
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
    sys.modules.pop("__mp_main__", None)  # joblib's alias of the main module, which is not this script
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
    os._exit(status)  # skips tearing down the imported modules, which takes a second


if __name__ == "__main__":
    main()
