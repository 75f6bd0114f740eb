"""Files on disk: one Parquet schema per kind of table, written atomically."""

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

LOCK = ".lock"  # in a temporary folder, held by the job that writes there

_message = pa.struct([("role", pa.string()), ("content", pa.string())])

SCHEMAS = {
    "corpus": pa.schema([("text", pa.string())]),
    "conversations": pa.schema([("id", pa.string()), ("messages", pa.list_(_message)), ("source", pa.string())]),
    # `request` is what the oracle judge or a checker needs to know about an instruction, as JSON; null for other sets.
    # Instructions about the same thing share a `cluster`, here and below: intervals draw clusters.
    "evaluation_set": pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("instruction", pa.string()),
            ("reference", pa.string()),
            ("request", pa.string()),
            ("cluster", pa.string()),
            ("source", pa.string()),
        ]
    ),
    # `tokens` and `cut` count tokens: those of the response, and those cut from a prompt too long for the context.
    "responses": pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("instruction", pa.string()),
            ("output", pa.string()),
            ("stopped", pa.bool_()),
            ("tokens", pa.int64()),
            ("cut", pa.int64()),
            ("generator", pa.string()),
        ]
    ),
    # One row per pair: the sums of log-probabilities (nats) of both responses to the instruction `id`, EOS included,
    # and that of EOS alone. `negatives` is the draw that the other response comes from.
    "ranking": pa.schema(
        [
            ("id", pa.string()),
            ("other_id", pa.string()),
            ("cluster", pa.string()),
            ("negatives", pa.string()),
            ("true_logprob", pa.float64()),
            ("true_eos_logprob", pa.float64()),
            ("true_tokens", pa.int64()),
            ("other_logprob", pa.float64()),
            ("other_eos_logprob", pa.float64()),
            ("other_tokens", pa.int64()),
        ]
    ),
    # alpaca-eval's names: output_1 is the opponent's, output_2 the judged model's; preference 1 to 2, 1.5 a tie. If
    # both orders were shown, it is the mean over them, and the next two columns have each; qualities are what a judge
    # gives each output. `label_share` is the labels' probability in the judge's answer, the lower of both orders;
    # `members` holds the preference of each member of a panel. These may all be null.
    "judgements": pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("cluster", pa.string()),
            ("instruction", pa.string()),
            ("output_1", pa.string()),
            ("output_2", pa.string()),
            ("generator_1", pa.string()),
            ("generator_2", pa.string()),
            ("quality_1", pa.float64()),
            ("quality_2", pa.float64()),
            ("preference", pa.float64()),
            ("preference_output_1_first", pa.float64()),
            ("preference_output_2_first", pa.float64()),
            ("label_share", pa.float64()),
            ("members", pa.list_(pa.float64())),
        ]
    ),
    # Known judgements: the preferences of each annotator, 1 to 2, and their mean; models may be null.
    "annotations": pa.schema(
        [
            ("id", pa.string()),
            ("cluster", pa.string()),
            ("instruction", pa.string()),
            ("model_1", pa.string()),
            ("model_2", pa.string()),
            ("output_1", pa.string()),
            ("output_2", pa.string()),
            ("annotators", pa.list_(pa.float64())),
            ("annotation", pa.float64()),
        ]
    ),
    # The same pairs, with a judge's preferences; lengths are in characters. A `copy` is a pair of equal outputs.
    "compared": pa.schema(
        [
            ("id", pa.string()),
            ("cluster", pa.string()),
            ("model_1", pa.string()),
            ("model_2", pa.string()),
            ("length_1", pa.int64()),
            ("length_2", pa.int64()),
            ("annotators", pa.list_(pa.float64())),
            ("annotation", pa.float64()),
            ("copy", pa.bool_()),
            ("preference", pa.float64()),
            ("preference_output_1_first", pa.float64()),
            ("preference_output_2_first", pa.float64()),
        ]
    ),
    # One row per check of a response, and way of checking.
    "checks": pa.schema(
        [
            ("id", pa.string()),
            ("cluster", pa.string()),
            ("name", pa.string()),
            ("way", pa.string()),
            ("passed", pa.bool_()),
        ]
    ),
    # One row per document: sums over its scored tokens of log-probabilities (nats) under base and tuned model, and
    # of KL(base || tuned); `cut` counts tokens beyond the context.
    "drift": pa.schema(
        [
            ("id", pa.string()),
            ("tokens", pa.int64()),
            ("cut", pa.int64()),
            ("base_logprob", pa.float64()),
            ("tuned_logprob", pa.float64()),
            ("kl", pa.float64()),
        ]
    ),
    # One row per fact and form: the correct value, and the one that each model finds most likely among all rivals.
    "recall": pa.schema(
        [
            ("fact", pa.string()),
            ("form", pa.string()),
            ("key", pa.string()),
            ("right", pa.string()),
            ("rivals", pa.int64()),
            ("base", pa.string()),
            ("tuned", pa.string()),
        ]
    ),
    # x and y are mean dot products of embeddings (paper, section 5.2); then whether the response has each style.
    "similarity": pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("x", pa.float64()),
            ("y", pa.float64()),
            ("gsm", pa.bool_()),
            ("poetry", pa.bool_()),
            ("code", pa.bool_()),
            ("recipes", pa.bool_()),
            ("chess", pa.bool_()),
        ]
    ),
}


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, and move it to ``path`` if the block ends without an error.

    Leftovers of killed jobs next to ``path`` are removed first, but not what running jobs are writing.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path)
        folder, lock = _temporary_folder(path)
        try:
            yield folder / path.name
            if path.is_dir():  # os.replace cannot replace a folder, so it is moved away
                path.rename(folder / f"former {path.name}")
            os.replace(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
    except Exception as error:
        error.add_note(f"{path} was being written")
        raise


def _temporary_folder(path: Path) -> tuple[Path, IO[str]]:
    """A new folder next to ``path``, and the lock file in it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        with suppress(FileNotFoundError):  # removed as a killed job's leftover before it was locked
            lock = (folder / LOCK).open("a")
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / LOCK).exists():
                return folder, lock
            lock.close()


def _remove_left_over(path: Path) -> None:
    """Remove the temporary folders of jobs that were killed while writing ``path``: those without a lock."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*/"):
        with suppress(FileNotFoundError), (folder / LOCK).open("a") as lock:
            if _lock(lock):
                shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str]) -> bool:
    """Lock a file until it is closed; False if another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is a full disk; some libraries say so only in the message."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_table(kind: str, rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write a kind of table as Parquet. Raises pyarrow's error for a value that the schema does not allow."""
    rows = list(rows)
    schema = SCHEMAS[kind]
    stray = {key for row in rows for key in row} - set(schema.names)
    if stray:
        raise ValueError(f"columns that a table of {kind} does not have: {sorted(stray)}")
    with written_whole(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def read_table(kind: str, path: Path) -> list[dict[str, Any]]:
    """Read rows that `write_table` wrote. Raises ValueError if the file is of another kind."""
    table = pq.read_table(path)
    if table.schema.names != SCHEMAS[kind].names:
        raise ValueError(f"{path} is not a table of {kind}: its columns are {table.schema.names}")
    return table.to_pylist()


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: Path) -> None:
    """Write JSON atomically. NaN is an error, as it is not valid JSON."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
