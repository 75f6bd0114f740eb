"""Checks of responses that need no judge: IFEval's verifiable instructions (Zhou et al. 2023), GSM8K's answers, MBPP.

A check has a name and passes or fails, in one or two ways: IFEval's are ``strict`` and ``loose``, which also tries the
response without its first line, its last line, and asterisks. IFEval's checks are those of lm-evaluation-harness.
"""

import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from implicit.measuring.sandbox import SandboxMissing, check_sandbox, runs

Row = dict[str, Any]

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", flags=re.DOTALL)
SENTENCES = "tokenizers/punkt_tab/english"  # of nltk, for counting sentences


class Check(NamedTuple):
    """One check of one response."""

    name: str
    way: str
    passed: bool


class CheckError(RuntimeError):
    """A row cannot be checked, or what a checker needs is not installed; the message says what to do."""


def check_ifeval(row: Row, output: str) -> list[Check]:
    """IFEval: every instruction of the row's ``request``, strict and loose."""
    from lm_eval.tasks.ifeval.utils import process_results

    given = json.loads(row["request"])
    # A few of the 541 prompts leave a letter to chance, and langdetect guesses languages with random samples.
    random.seed(row["id"])
    found = process_results({"key": 0, "prompt": row["instruction"], **given}, [output])
    return [
        Check(name, way, bool(passed))
        for way in ("strict", "loose")
        for name, passed in zip(given["instruction_id_list"], found[f"inst_level_{way}_acc"], strict=True)
    ]


def last_number(text: str) -> float | None:
    """The last number of a text, without commas; None if there is none."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def check_gsm8k(row: Row, output: str) -> list[Check]:
    """GSM8K: whether the last number of a response is that of the reference, which ends in ``#### 72``."""
    right = last_number(row["reference"])
    if right is None:
        raise CheckError(f"checks: the reference of row {row['id']} has no number: {row['reference']!r:.60}")
    return [Check("answer", "last number", last_number(output) == right)]


def code_in(output: str) -> str:
    """The first fenced block of a response, or all of it if there is none."""
    found = FENCED.search(output)
    return found[1] if found else output


def check_mbpp(row: Row, output: str) -> list[Check]:
    """MBPP: whether the code in a response passes all tests, in a sandbox."""
    given = json.loads(row["request"])
    return [Check("tests", "all tests", runs("\n".join([code_in(output), given["setup"], *given["tests"]])))]


def prepare_mbpp() -> None:
    """Raise CheckError if code cannot be run safely on this machine."""
    try:
        check_sandbox()
    except SandboxMissing as error:
        raise CheckError(f"checks: mbpp runs code that models write, which needs a sandbox: {error}") from None


def prepare_ifeval() -> None:
    """Raise CheckError if something that IFEval's checks need is missing: they would download it when imported."""
    try:
        import langdetect
        import nltk

        nltk.data.find(SENTENCES)
        import lm_eval.tasks.ifeval.utils  # noqa: F401
    except ImportError as error:
        raise CheckError(
            f"checks: {error.name} is not installed, which IFEval's checks need: pip install -r envs/harness.txt"
        ) from None
    except LookupError:
        raise CheckError(
            "checks: nltk's punkt_tab is not installed, by which IFEval counts sentences: python -m nltk.downloader "
            "punkt_tab, or, without access to GitHub, python scripts/fetch.py punkt_tab"
        ) from None
    langdetect.DetectorFactory.seed = 0


CHECKERS: dict[str, Callable[[Row, str], list[Check]]] = {
    "ifeval": check_ifeval,
    "gsm8k": check_gsm8k,
    "mbpp": check_mbpp,
}
PREPARE: dict[str, Callable[[], None]] = {"ifeval": prepare_ifeval, "mbpp": prepare_mbpp}
