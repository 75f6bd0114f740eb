"""The contents of the documents: fenced blocks and commands."""

import re
import textwrap
from dataclasses import dataclass

from workflow import ROOT

DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its document, line, language and text."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.document}:{self.line}"


def blocks(language, documents=DOCUMENTS):
    """Every block of a language, including indented ones."""
    found = []
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(document, line, language, textwrap.dedent(match[2])))
    return found


def commands():
    """Every command of the documents' shell blocks, without trailing comments, each once."""
    lines = [re.sub(r"\s*#.*$", "", line) for block in blocks("sh") for line in block.text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))
