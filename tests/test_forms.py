"""Text in a table stays text, in every output format."""

import csv
import io
import re

from hypothesis import given
from hypothesis import strategies as st

from reporting.tables.forms import fixed, plus_minus, rounded, to_csv, to_latex, to_markdown

HOSTILE = [
    r"\input{/etc/passwd} \write18{rm -rf /} $x$ % & # _ ^ ~ {a} \\ \end{tabular}",
    "<script>alert(1)</script> <img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://example.org/x.png) `code` **bold** | cell",
    "two\nlines\r\nand | a -- \\| b",
    "{{ config.x }} {% raw %} {wildcards.x} <|user|> </s>",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))


def markdown_cells(text):
    """The cells of the table in a Markdown file, starting with the header."""
    lines = [line[2:-2] for line in text.splitlines() if line.startswith("| ")]
    return [[re.sub(r"\\([^\w\s])", r"\1", cell.strip()) for cell in line.split(" | ")] for line in lines]


def latex_cells(text):
    """The cells of the table in a LaTeX file, starting with the header."""
    named = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">"}
    mark = re.compile(r"\\text(\w+)\{\}|\\([&%_#${}])|\$\\pm\$")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line[: -len(r" \\")] for line in body.splitlines() if line.endswith(r" \\")]
    return [
        [
            mark.sub(lambda found: named[found[1]] if found[1] else found[2] or "±", cell.strip())
            for cell in line.split(" & ")
        ]
        for line in lines
    ]


def on_one_line(value):
    return " ".join(value.split())


@given(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=4), texts)
def test_what_a_table_holds_can_be_read_back_from_each_form(lines, note):
    rows = [{"name, of <b>": first, "b|c": second} for first, second in lines]
    cells = [[on_one_line(text) for text in line] for line in [list(rows[0]), *(row.values() for row in rows)]]
    read = {"md": markdown_cells(to_markdown(rows, title="T", notes=[note]).rpartition("\n\n")[0])}
    read["tex"] = latex_cells(to_latex(rows, title="T", notes=[note], label="t"))
    for form, found in read.items():
        assert [[on_one_line(cell) for cell in line] for line in found] == cells, form
    assert list(csv.DictReader(io.StringIO(to_csv(rows), newline=""))) == rows


def test_nothing_in_a_cell_or_a_note_is_code():
    rows = [{"a": text} for text in HOSTILE]
    latex = to_latex(rows, title="T", notes=HOSTILE, label="t")
    commands = set(re.findall(r"\\([a-zA-Z]+)", latex))
    assert commands <= {
        "begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "textbackslash", "textasciitilde",
        "textasciicircum", "textless", "textgreater",
    }  # fmt: skip
    assert latex.count(r"\end{tabular}") == 1 and not re.search(r"(?<!\\)[%&#](?! )", latex.replace(" & ", ""))
    markdown = to_markdown(rows, title="T", notes=HOSTILE)
    assert not re.search(r"(?<!\\)[<\[`]", markdown)


@given(st.lists(st.integers(0, 400).map(lambda wins: wins / 400), min_size=1, max_size=200), st.randoms())
def test_the_order_of_a_sum_does_not_decide_how_a_half_is_rounded(shares, draw):
    """Shares of 200 with ties are multiples of 1/400, so percentages are often halfway between two decimals."""
    other = draw.sample(shares, len(shares))
    one, another = (100 * sum(values) / len(values) for values in (shares, other))
    assert fixed(one, 1) == fixed(another, 1) and plus_minus((one, None)) == fixed(one, 1)


def test_a_half_is_rounded_alike_whatever_its_last_bit():
    assert all(f"{rounded(value, 1):.1f}" == fixed(value, 1) for value in (28.75, 28.749999999999996, 0.05, 12.25))
    assert fixed(28.75, 1) == fixed(28.749999999999996, 1) == fixed(28.750000000000004, 1)
    assert fixed(0.375, 2) == fixed(0.37499999999999994, 2)
    assert (fixed(1.5, 1, sign="+"), fixed(-0.25, 1, sign="+"), fixed(28.74999, 1)) == ("+1.5", "-0.2", "28.7")


def test_numbers_are_to_the_right_in_latex_and_the_table_has_a_label():
    rows = [{"name": "a", "rate": "4.0 ± 1.0", "of": 3, "gone": ""}, {"name": "b", "rate": "-5.0", "of": 4, "gone": ""}]
    latex = to_latex(rows, title="T", notes=[], label="mine")
    assert r"\begin{tabular}{lrrr}" in latex and r"\label{tab:mine}" in latex and r"\caption{T.}" in latex
