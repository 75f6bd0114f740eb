"""Templates of judges: how one is read, and what it must hold."""

import re
from pathlib import Path

PLACEHOLDERS = ("instruction", "output_1", "output_2")


class JudgeError(ValueError):
    """Pairs that cannot be judged, or a judge that cannot be used; the message says what would be right."""


def read_template(path: str | Path, *, key: str = "judge.template") -> str:
    """The text of a template in UTF-8, with ``\\n`` at the ends of lines and without a byte order mark.

    Raises JudgeError, naming ``key`` of the config, for a file that cannot be read or is not UTF-8 text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # which also reads files without the mark
    except OSError as error:
        raise JudgeError(f"{key}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise JudgeError(f"{key}: {path} is not UTF-8 text ({error}): save it as UTF-8") from None
    if "\0" in text:  # as UTF-16 without a mark has
        raise JudgeError(f"{key}: {path} is not UTF-8 text, as it has null characters: save it as UTF-8")
    return text


def check_template(template: str, *, pairs: int = 1) -> None:
    """Raise JudgeError unless a template has the three placeholders, once for each pair, and no others."""
    found = re.findall(r"{([^ \s]+?)}", template)  # as alpaca-eval looks for them
    if sorted(found) != sorted(PLACEHOLDERS * pairs):
        raise JudgeError(
            f"judge.template: its placeholders must be {{instruction}}, {{output_1}} and {{output_2}}, each "
            f"{'once' if pairs == 1 else f'{pairs} times'}, and no other braces around words, but they are {found}"
        )
    if template.strip().startswith("<|im_start|>") != template.strip().endswith("<|im_end|>"):
        raise JudgeError("judge.template: one in ChatML must begin with <|im_start|> and end with <|im_end|>")
