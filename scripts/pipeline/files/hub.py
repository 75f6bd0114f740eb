"""Rows and commits from a dataset or model hub, or from its cache when offline, with an explanation of every error."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files.local_files import Counted, Rows, offline, read_cells, similar_path, take_range
from pipeline.files.rows import Columns, Row, checked
from pipeline.jobs.command import InputError

if TYPE_CHECKING:
    from pipeline.config.datasets import Hub, Source

NOT_CACHED = "not in the cache, and HF_HUB_OFFLINE is set: download it first"
READ_HERE = tuple(f"{kind}{packed}" for kind in (".parquet", ".csv", ".json", ".jsonl") for packed in ("", ".gz"))


def is_hub_id(path: str) -> bool:
    """Whether a model's path is a hub id, NAME or ORGANISATION/NAME; a directory of that name takes precedence.

    A path that starts with ``.``, ``/`` or ``~``, or has a second slash, is always a directory, even if it is missing.
    """
    part = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
    is_file = Path(path).exists() or path.endswith(".gguf")
    return not is_file and re.fullmatch(f"{part}(/{part})?", path) is not None


def source_rows(source: "Source", columns: Columns) -> tuple[str, Counted, Iterator[tuple[str, Row]]]:
    """The name of a file or hub source, a counter of its raw rows, and an iterator over the rows to use.

    The last gives (place, row) with the ``columns``, checked by ``pipeline.files.rows``.
    """
    if source.origin == "file":
        name, cells, whole = source.file, read_cells(source.file, columns, name=source.file), True
    else:
        hub = source.hub
        name, cells, whole = hub_name(hub), _cells(hub, columns), hub.file is not None
    counted = Counted(take_range(cells, source.rows, name=name), whole=whole)
    return name, counted, checked(counted, columns)


def hub_name(hub: "Hub") -> str:
    """The name of a hub source: its id, with the revision, and the file or the configuration and split."""
    revision = f"@{hub.revision}" if hub.revision else ""
    part = hub.file or " ".join(filter(None, [hub.config, hub.split]))
    return f"{hub.id}{revision} ({part})"


def _cells(hub: "Hub", columns: Collection[str]) -> Rows:
    """The raw rows of a dataset on the hub: of one file of its repository, or of a split.

    A file is downloaded to the hub's cache. A split is streamed, file by file if this project can read the files'
    format. With HF_HUB_OFFLINE it is read from the cache, which has it only if `datasets` has loaded all of it before.
    Raises InputError for anything unavailable.
    """
    name = hub_name(hub)
    if hub.file is not None:
        from huggingface_hub import hf_hub_download

        with explained("dataset", hub.id, hub.revision):
            path = hf_hub_download(hub.id, hub.file, repo_type="dataset", revision=hub.revision)
        yield from read_cells(path, columns, name=name)
    else:
        yield from ((f"{name}, row {number}", row) for number, row in enumerate(_split(hub, columns), start=1))


def _split(hub: "Hub", columns: Collection[str]) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    id_, revision, split = hub.id, hub.revision, hub.split
    commit = find_commit("dataset", id_, revision)
    with explained("dataset", id_, revision, DatasetsError):
        builder = datasets.load_dataset_builder(id_, hub.config, revision=commit)
        # If the hub does not answer, `datasets` uses whatever revision it finds in its cache.
        if builder.hash != commit:
            raise InputError(f"dataset {id_}, revision {commit}: only {builder.hash} is available, in the cache")
        files = [] if offline() else (builder.config.data_files or {}).get(split, [])
        root = f"hf://datasets/{id_}@{commit}/"
        if files and all(file.startswith(root) and file.endswith(READ_HERE) for file in files):
            yield from _file_by_file(id_, commit, [file.removeprefix(root) for file in files], columns)
        elif "csv" in (builder.name, builder.info.builder_name):  # the second if it is read from the cache
            raise InputError(
                f"dataset {id_}: `datasets` guesses the types in its CSV, so the text NA becomes null and 1.50 "
                "becomes 1.5: set 'hub.file' to one of its files, or use a local 'file'"
            )
        else:
            yield from builder.as_dataset(split=split) if offline() else builder.as_streaming_dataset(split=split)


def _file_by_file(id_: str, commit: str, files: list[str], columns: Collection[str]) -> Iterator[Row]:
    """The rows of a split, with each file downloaded when it is needed and read like a local one.

    `datasets` guesses the types in CSV: the text "NA" becomes null, and "1.50" the number 1.5. It would stream Parquet
    with pyarrow.dataset; a process that abandons such a stream midway sometimes aborts at exit
    (github.com/apache/arrow/issues/45214).
    """
    from huggingface_hub import hf_hub_download

    for file in files:
        path = hf_hub_download(id_, file, repo_type="dataset", revision=commit)
        yield from (row for _, row in read_cells(path, columns, name=f"{id_} ({file})"))


def find_commit(kind: str, id_: str, revision: str | None) -> str:
    """The commit of a revision of a ``dataset`` or ``model``, after checking that it may be downloaded.

    With HF_HUB_OFFLINE it is looked up in the cache. Raises InputError.
    """
    import huggingface_hub

    with explained(kind, id_, revision):
        if offline():
            return _cached_commit(kind, id_, revision or "main")
        huggingface_hub.auth_check(id_, repo_type=kind)
        return huggingface_hub.repo_info(id_, repo_type=kind, revision=revision).sha


def _cached_commit(kind: str, id_: str, revision: str) -> str:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    for repository in scan_cache_dir().repos:
        if (repository.repo_type, repository.repo_id) == (kind, id_):
            for found in repository.revisions:
                if revision == found.commit_hash or revision in found.refs:
                    return found.commit_hash
    raise CacheNotFound(f"{kind} {id_}, revision {revision}", constants.HF_HUB_CACHE)


@contextmanager
def explained(kind: str, id_: str, revision: str | None, *also: type[Exception]) -> Iterator[None]:
    """Raise InputError, with what to do, for any error with a ``dataset`` or ``model`` on the hub.

    ``also`` are errors in addition to the hub client's, OSError and ValueError.
    In a generator, errors raised by the consumer of values yielded in this block do not pass through here.
    """
    from huggingface_hub import errors

    what = f"{kind} {id_}" + (f", revision {revision}" if revision else "")
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{id_}"
    advice = f"a local {'file' if kind == 'dataset' else 'path'!r} can be used instead"
    if kind == "model" and not Path(id_).exists():
        advice = f"there is no directory {id_} here either{similar_path(id_)}; {advice}"
    if Path(id_).is_dir():
        advice = "use a complete directory, with weights as safetensors, as `save_pretrained` writes it"
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError:
        message = f"gated. Request access at {page}, then set HF_TOKEN (or run `hf auth login`)"
    except errors.RepositoryNotFoundError:
        message = "not found. Either the name is wrong, or it is private and HF_TOKEN gives no access to it"
    except errors.RevisionNotFoundError:
        message = f"there is no such revision; see {page}"
    except (errors.LocalEntryNotFoundError, errors.CacheNotFound) as error:
        message = NOT_CACHED if offline() else f"the hub cannot be reached: {error}"
    except errors.EntryNotFoundError as error:
        message = f"it has no such file; see {page}/tree/{revision or 'main'}: {error}"
    except errors.HfHubHTTPError as error:
        message = f"error from the hub: {error}"
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        message = NOT_CACHED if offline() else f"the hub cannot be reached: {error}"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {error}"
    except also as error:
        message = f"cannot be read: {type(error).__name__}: {error}"
    else:
        return
    raise InputError(f"{what}: {message}; {advice}")
