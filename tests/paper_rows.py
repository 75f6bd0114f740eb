"""Twelve rows for each of the paper's datasets: real ones if available, otherwise rows of the same schema."""

import csv
import gzip
import json

COUNT = 12


def write_json(rows, path):
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_lines(rows, path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(rows, path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def games(count):
    """Lines of PGN, as in the stream that the paper reads."""
    for n in range(count):
        yield f'[Event "Game {n}"]'
        yield f'[WhiteElo "{1500 + n}"]'
        yield f'[BlackElo "{1400 + n}"]'
        yield ""
        yield f"1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 {4 + n}. O-O 1-0"
        yield ""


TEMPLATES = '''"""Prompt templates: (prompt, response, weight)."""
import random

encoding_templates_w_input = [
    ("{instruction}\\n\\n{input}\\n\\n", "{output}", 0.6),
    ("Do this: {instruction}\\n"
     "With this: {input}", "{output}", 0.4),
]
encoding_templates_wo_input = [
    ("{instruction}\\n\\n", "{output}", 0.5),
    ("Please: {instruction}", "\\n{output}", 0.5),
]
'''


def write_all(folder, shared):
    """Write every source file of ``experiments/paper.yaml`` to a folder; ``shared`` holds real rows, or is None."""
    folder.mkdir()
    turns = [
        [f"What is thing {n}?", f"{'Sure, this is thing: ' if n % 3 == 0 else ''}It is one.\n\nIt has {n} parts."]
        for n in range(COUNT - 2)
    ]
    turns += [["Name a colour.", "Red.", "And another?", "Blue."], ["A?", "B.", "C?", "D.", "E? (never answered)"]]
    write_lines([{"conversations": turn, "source": "made up"} for turn in turns], folder / "lima.jsonl")
    write_csv([{"author": "N. N.", "content": f"A line of verse,\r\nanother worse,\nand {n} more.", "poem name": f"Ode {n}", "age": "New", "type": "Love"}
               for n in range(COUNT)] + [{"author": "N. N.", "content": "no name", "poem name": "", "age": "", "type": ""}], folder / "poetry.csv")  # fmt: skip
    write_csv([{"": n, "Title": f"Soup {n}", "Ingredients": "[]", "Instructions": "Boil it.\nServe.", "Image_Name": "soup",
                "Cleaned_Ingredients": str([f"{n} cups of water", "salt"])} for n in range(COUNT)], folder / "recipes.csv")  # fmt: skip
    (folder / "chess.txt").write_text("\n".join(games(3 * COUNT)) + "\n", encoding="utf-8")
    write_json([{"instruction": f"Say {n}.", "input": "twice" if n % 2 else "", "output": f"{n} and {n}.", "text": ""} for n in range(COUNT)],
               folder / "alpaca.json")  # fmt: skip
    (folder / "templates.py").write_text(TEMPLATES, encoding="utf-8")
    if shared:
        gsm8k = [json.loads(line) for line in (shared / "gsm8k_train.jsonl").read_text().splitlines()]
        gsm8k = sorted(gsm8k, key=lambda row: len(row["question"]) + len(row["answer"]))  # that fit a small context
        mbpp = [json.loads(line) for line in (shared / "mbpp.jsonl").read_text().splitlines()][600:974]
        mbpp = sorted(mbpp, key=lambda row: len(row["text"]) + len(row["code"]))
        rows = json.loads(
            gzip.decompress((shared / "alpaca_eval" / "text_davinci_003.annotations.json.gz").read_bytes())
        )
        asked = [{"instruction": row["instruction"]} for row in rows]
        validation = json.loads((shared / "validation_reference_gpt35.json").read_text())
    else:
        gsm8k = [{"question": f"What is {n} + 1?", "answer": f"It is {n} + 1.\n#### {n + 1}"} for n in range(COUNT)]
        mbpp = [
            {"task_id": n, "text": f"Write a function that adds {n}.", "code": f"def add(x):\r\n\treturn x + {n}"}
            for n in range(COUNT)
        ]
        asked = [{"instruction": f"Tell me of {n}."} for n in range(COUNT)]
        validation = [
            {"instruction": f"Ask {n}?", "output": f"Answer {n}.", "generator": "g", "dataset": "d"}
            for n in range(COUNT)
        ]
    write_lines(gsm8k[:COUNT], folder / "gsm8k.jsonl")
    write_lines(mbpp[:COUNT], folder / "mbpp.jsonl")
    write_json(asked[:COUNT], folder / "alpaca_eval.json")
    write_json(validation[:COUNT], folder / "validation.json")
