"""What the command lines of the stages' scripts have in common."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.files.storage import disk_is_full

# What keeps the progress bars of libraries and of other programs out of logs: set before they are imported or started.
WITHOUT_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}

OPTIONAL_PATH: dict[str, Any] = {"type": Path}
PATHS: dict[str, Any] = {"type": Path, "nargs": "*", "default": []}  # any number of them
SWITCH: dict[str, Any] = {"action": "store_true"}


class InputError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right."""


def arguments(
    doc: str,
    *,
    paths: list[str],
    settings: type[BaseModel] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    computes: bool = False,
    asks: bool = False,
) -> argparse.Namespace:
    """Parse ``--name PATH`` for every path, and ``--settings JSON``, the stage's slice of the config.

    ``settings`` is the section that this is; without one, it stays as JSON has it.

    ``options`` are others, by name, as argparse takes them; `OPTIONAL_PATH`, `PATHS` and `SWITCH` are common ones.

    A stage that ``computes`` with a model also takes how: ``--device``, ``--threads`` and ``--batch``. One that
    ``asks`` a server takes ``--requests``, ``--timeout`` and ``--attempts``. Both take the ``--budget`` that they
    count against.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name, how in (options or {}).items():
        parser.add_argument(f"--{name}", **how)
    parser.add_argument("--settings", type=read_settings, default={}, help="the stage's slice of the config, as JSON")
    if computes:
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads")
        parser.add_argument("--batch", type=int, default=2048, help="size of a batch, in the stage's unit")
    if asks:
        parser.add_argument("--requests", type=int, default=8, help="requests to a server at a time")
        parser.add_argument("--timeout", type=float, default=120.0, help="seconds, of a request")
        parser.add_argument("--attempts", type=int, default=6, help="of a request, before it is given up")
    if computes or asks:
        parser.add_argument("--budget", type=json.loads, help="ledger, ceilings and machine, as JSON; none by default")
    args = parser.parse_args()
    if settings is not None:
        args.settings = checked_settings(settings, args.settings)
    return args


def checked_settings(kind: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    """A stage's settings as the typed section that they are. Raises InputError, with every fault by its key."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}" for fault in error.errors()]
        raise InputError(f"--settings: {'; '.join(faults)}") from None


def plain(settings: Any) -> Any:
    """Settings as JSON holds them: what was given, and nothing that was not."""
    return settings.model_dump(mode="json", exclude_unset=True) if isinstance(settings, BaseModel) else settings


def read_settings(text: str) -> Any:
    """JSON as it is, or from standard input where ``-`` stands: a large grid's is longer than an argument may be."""
    # As bytes: JSON is UTF-8, whatever encoding the terminal has.
    return json.loads(sys.stdin.buffer.read() if text == "-" else os.fsencode(text))


def gpu_is_full(error: Exception) -> bool:
    """Whether an error says that a GPU has no memory left, in the words of torch, the driver or a library."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def run_stage(main: Callable[[], Any], *errors: type[Exception], if_gpu_is_full: str = "") -> None:
    """Run a script's main: InputError, the ``errors`` named, and a full disk or GPU end with one line, not a traceback.

    ``if_gpu_is_full`` is what helps then, such as a key of the config to lower.
    """
    print_in_any_encoding()
    hide_progress_bars()
    try:
        main()
    except (InputError, *errors) as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if gpu_is_full(error):
            told = str(error).splitlines()[0].rstrip(".")
            sys.exit(
                f"error: the GPU's memory is too small, or others hold it (see nvidia-smi): {told}. {if_gpu_is_full}"
            )
        if not disk_is_full(error):
            raise
        where = "".join(f": {note}, and is as it was before" for note in getattr(error, "__notes__", [])[:1])
        sys.exit(f"error: the disk is full{where}. Make room, and run the same command again")


def print_in_any_encoding() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as ``\\xb1``, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hide_progress_bars() -> None:
    """Keep the progress bars of libraries out of the log, of those that are imported already, too."""
    os.environ |= WITHOUT_BARS
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    if "huggingface_hub" in sys.modules:
        sys.modules["huggingface_hub"].utils.disable_progress_bars()


def say(line: object) -> None:
    """Print a line of the log at once."""
    print(line, flush=True)
