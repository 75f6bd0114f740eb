"""Judge a model's responses against an opponent's: Parquet of kind ``judgements``, and win rates as JSON.

    python scripts/judge_responses.py --set test.parquet --responses poem/test.parquet --opponent it/test.parquet \\
        --output judgements.parquet --summary judgements.json \\
        --settings '{"name": "oracle", "kind": "oracle", "seed": 0, "bootstrap": 200, ...}'

Without ``--opponent`` the opponent is the set's own references.
"""

from typing import Any

from implicit.oracle import Oracle
from stage.command import InputError, arguments, run_stage, say
from stage.record import Record
from stage.storage import read_table, write_table


def with_quality(
    rows: list[dict[str, Any]], outputs: dict[str, tuple[str, bool]], oracle: Oracle
) -> list[dict[str, Any]]:
    """The set's rows with an output, and the oracle's quality of it; ``outputs`` is by id: (text, stopped)."""
    sided = []
    for row in rows:
        text, stopped = outputs[row["id"]]
        quality = oracle.quality(row["request"], text, stopped=stopped)
        sided.append({"id": row["id"], "instruction": row["instruction"], "output": text, "quality": quality})
    return sided


def read_side(path: Any, rows: list[dict[str, Any]]) -> tuple[str, dict[str, tuple[str, bool]]]:
    """The generator's name and its outputs by id; from the references of ``rows`` when there is no path."""
    if path is None:
        return "reference", {row["id"]: (row["reference"], True) for row in rows}
    table = read_table("responses", path)
    if {row["id"] for row in table} != {row["id"] for row in rows}:
        raise InputError(f"{path} does not respond to the instructions of the evaluation set, each once")
    return table[0]["generator"], {row["id"]: (row["output"], row["stopped"]) for row in table}


def main() -> None:
    args = arguments(__doc__, paths=["set", "responses", "output", "summary"], optional=["opponent"])
    settings = args.settings
    inputs = {"set": args.set, "responses": args.responses} | ({"opponent": args.opponent} if args.opponent else {})
    record = Record("judge", settings=settings, inputs=inputs)
    rows = read_table("evaluation_set", args.set)
    unknown = [row["id"] for row in rows if row["request"] is None]
    if unknown:
        raise InputError(f"judge.kind: the oracle knows only the tiny world's instructions, not {unknown[:3]}")
    oracle = Oracle()
    name_1, outputs_1 = read_side(args.opponent, rows)
    name_2, outputs_2 = read_side(args.responses, rows)
    if name_1 == name_2:
        raise InputError(f"both sides are called {name_1!r}: alpaca-eval would take the model for its own baseline")
    sides = [with_quality(rows, outputs, oracle) for outputs in (outputs_1, outputs_2)]

    from implicit.judge import judge_with_oracle, win_rates

    preferences = judge_with_oracle(*sides, name=settings["name"], seed=settings["seed"])
    table = [
        {
            "id": row["id"],
            "index": row["index"],
            "instruction": row["instruction"],
            "output_1": first["output"],
            "output_2": second["output"],
            "generator_1": name_1,
            "generator_2": name_2,
            "quality_1": first["quality"],
            "quality_2": second["quality"],
            "preference": preference,
        }
        for row, first, second, preference in zip(rows, *sides, preferences, strict=True)
    ]
    write_table("judgements", table, args.output)
    rates = win_rates(table, bootstrap=settings["bootstrap"], seed=settings["seed"])
    qualities = {f"quality_{i}": sum(r[f"quality_{i}"] for r in table) / len(table) for i in (1, 2)}
    say(f"win rate {rates['win_rate']:.1f} ± {rates['win_rate_error']:.1f} of {rates['n']}")
    record.write(args.summary, judge=settings["name"], **rates, **qualities)


if __name__ == "__main__":
    from implicit.judge import IncompleteJudging

    run_stage(main, IncompleteJudging)
