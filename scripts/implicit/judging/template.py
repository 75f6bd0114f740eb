"""Judge templates: reading and validating them."""

import re
from pathlib import Path

PLACEHOLDERS = ("instruction", "output_1", "output_2")


class JudgeError(ValueError):
    """Pairs that cannot be judged, or a judge that cannot be used; the message says what is expected."""


def read_template(path: str | Path, *, key: str = "judge.template") -> str:
    """Read a template in UTF-8, with ``\\n`` line ends and without a byte order mark.

    Raises JudgeError, naming the config key ``key``, for a file that cannot be read or is not UTF-8 text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # which also reads files without the mark
    except OSError as error:
        raise JudgeError(f"{key}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise JudgeError(f"{key}: {path} is not UTF-8 text ({error}): save it as UTF-8") from None
    if "\0" in text:  # as in UTF-16 without a byte order mark
        raise JudgeError(f"{key}: {path} is not UTF-8 text, as it contains null characters: save it as UTF-8")
    return text


def check_template(template: str, *, pairs: int = 1) -> None:
    """Raise JudgeError unless a template has the three placeholders, once per pair, and no others."""
    found = re.findall(r"{([^ \s]+?)}", template)  # as alpaca-eval does
    if sorted(found) != sorted(PLACEHOLDERS * pairs):
        raise JudgeError(
            f"judge.template: its placeholders must be {{instruction}}, {{output_1}} and {{output_2}}, each "
            f"{'once' if pairs == 1 else f'{pairs} times'}, and no other braces around words, but they are {found}"
        )
    if template.strip().startswith("<|im_start|>") != template.strip().endswith("<|im_end|>"):
        raise JudgeError("judge.template: a ChatML template must begin with <|im_start|> and end with <|im_end|>")
