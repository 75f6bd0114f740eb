"""The command lines of the stages' scripts, and how a script ends with an error."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.messages import explain
from pipeline.files.storage import disk_is_full

# Keeps progress bars of libraries and other programs out of logs; set before they are imported or started.
WITHOUT_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}

OPTIONAL_PATH: dict[str, Any] = {"type": Path}
PATHS: dict[str, Any] = {"type": Path, "nargs": "*", "default": []}  # any number of them
NAMED: dict[str, Any] = {"nargs": "*", "default": []}  # any number of NAME=PATH, for `directories`
SWITCH: dict[str, Any] = {"action": "store_true"}


class InputError(ValueError):
    """Wrong input from the user; the message says what is wrong, where, and what would be right."""


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

    The slice is parsed into the type ``settings``, or stays JSON without one. ``options`` are further options by name,
    as keyword arguments of argparse; `OPTIONAL_PATH`, `PATHS` and `SWITCH` are common ones. ``@FILE`` stands for the
    lines of a file.

    A stage that ``computes`` with a model also takes ``--device``, ``--threads`` and ``--batch``, one that ``asks`` a
    server ``--requests``, ``--timeout`` and ``--attempts``, and both the ``--budget`` that they count against. Raises
    InputError for settings that are wrong or missing.
    """
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=shape, fromfile_prefix_chars="@")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name, keywords in (options or {}).items():
        parser.add_argument(f"--{name}", **keywords)
    parser.add_argument("--settings", type=read_settings, default={}, help="the stage's slice of the config, as JSON")
    if computes:
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads")
        parser.add_argument("--batch", type=int, default=2048, help="batch size, in the stage's unit")
    if asks:
        parser.add_argument("--requests", type=int, default=8, help="parallel requests to a server")
        parser.add_argument("--timeout", type=float, default=120.0, help="seconds per request")
        parser.add_argument("--attempts", type=int, default=6, help="attempts per request")
    if computes or asks:
        parser.add_argument("--budget", type=json.loads, help="ledger, ceilings and machine, as JSON; none by default")
    args = parser.parse_args()
    if settings is not None:
        args.settings = checked_settings(settings, args.settings)
    return args


def directories(named: list[str]) -> dict[str, Path]:
    """Paths by name, from words such as ``NAME=PATH``."""
    return {name: Path(path) for name, _, path in (word.partition("=") for word in named)}


def checked_settings(kind: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    """Parse a stage's settings. Raises InputError listing all errors by key."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InputError(f"--settings: {'; '.join(explain(fault, kind) for fault in error.errors())}") from None


def plain(settings: Any) -> Any:
    """Settings as JSON, without keys that were not given."""
    return settings.model_dump(mode="json", exclude_unset=True) if isinstance(settings, BaseModel) else settings


def read_settings(text: str) -> Any:
    """Parse JSON, from standard input for ``-``: for a large grid it is longer than an argument may be."""
    # As bytes: JSON is UTF-8, whatever encoding the terminal has.
    return json.loads(sys.stdin.buffer.read() if text == "-" else os.fsencode(text))


def gpu_is_full(error: Exception) -> bool:
    """Whether an error of torch, the driver or a library says that a GPU is out of memory."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def run_stage(main: Callable[[], Any], *errors: type[Exception], if_gpu_is_full: str = "") -> None:
    """Run a script's main; print one line instead of a traceback for InputError, ``errors``, and a full disk or GPU.

    ``if_gpu_is_full`` is advice, such as a key of the config to lower.
    """
    print_in_any_encoding()
    hide_progress_bars()
    try:
        main()
    except (InputError, *errors) as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if gpu_is_full(error):
            reason = str(error).splitlines()[0].rstrip(".")
            sys.exit(f"error: the GPU's memory is too small, or in use (see nvidia-smi): {reason}. {if_gpu_is_full}")
        if not disk_is_full(error):
            raise
        where = "".join(f": {note}, and is unchanged" for note in getattr(error, "__notes__", [])[:1])
        sys.exit(f"error: the disk is full{where}. Free some space, and run the same command again")


def print_in_any_encoding() -> None:
    """Escape characters that the terminal's encoding lacks, such as ``\\xb1``, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hide_progress_bars() -> None:
    """Disable the progress bars of libraries, including those that are already imported."""
    os.environ |= WITHOUT_BARS
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    if "huggingface_hub" in sys.modules:
        sys.modules["huggingface_hub"].utils.disable_progress_bars()


def say(line: object) -> None:
    """Print a line to the log immediately."""
    print(line, flush=True)
