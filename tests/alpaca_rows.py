"""Rows in Stanford Alpaca's form, and the authors' prompt templates in small."""

import random

TEMPLATES = """
import random  # what stands beside the two lists must not matter
raise SystemExit("executed")
encoding_templates_w_input = [
    # prompt, response, weight
    ("{instruction}\\n\\n{input}\\n\\n", "{output}", 0.2),
    ("Do this: {instruction}\\nWith: {input}\\nSo:", "{output}", 0.5),
    ("A long one. "
     "In two parts: {input}, {instruction}", "\\n{output}", 0.3),
]
encoding_templates_wo_input = [("{instruction}\\n", "{output}", 0.6), ("{instruction}", "\\n{output}", 0.35), ("Q: {instruction} A:", "{output}", 0.1)]
"""


def alpaca_rows(count):
    rng = random.Random(5)
    inputs = ["", "  ", "an {input} \n", "more"]
    return [
        {"instruction": f" do {{{i}}} ", "input": rng.choice(inputs), "output": f" done {i}\n"} for i in range(count)
    ]
