"""What was cut, dropped or changed stands under the tables that it bears on; what was not, does not."""

import json
import sys

import pytest

import make_tables
from stage.storage import write_json, write_table

RATES = {"win_rate": 40.0, "win_rate_error": 1.0, "lc_win_rate": None, "ties": 0, "n": 3, "quality_1": None, "quality_2": None,
         "position_bias": None, "judge": "j", "metric": "m", "date": None, "settings": {"bootstrap": 2, "seed": 0}}  # fmt: skip
JUDGED = [{"id": f"r{i}", "cluster": f"r{i}", "preference": 1.5} for i in range(3)]
PAIR = {"true_logprob": -1.0, "other_logprob": -2.0, "true_tokens": 1, "other_tokens": 1, "true_eos_logprob": -0.5,
        "other_eos_logprob": -0.5, "other_id": "r9", "negatives": "any"}  # fmt: skip
RANKED = {score: {"capability": 0.5, "low": 0.4, "high": 0.6, "ties": 0.0} for score in ("sequence", "token")}


@pytest.fixture
def tables(tmp_path):
    """A function that writes the tables of made-up files, and returns their texts; options say what was lost."""

    def make(*, rows_cut=0, dropped=0, unstopped=0, prompts_cut=0, protected=0, models=("tiny",), **judged):
        figures, responses, tunings, rankings = [], [], [], []
        for model in models:
            for system in (
                "base",
                "it/chosen/seed1",
                "it/chosen/seed2",
                "poem/chosen/seed1",
                "poem/chosen/seed2",
                "chess/chosen/seed1",
            ):
                path = tmp_path / model / system / "test.parquet"
                lost = system.startswith(("poem", "it"))
                rows = [
                    {"id": f"r{i}", "index": i, "instruction": "a", "output": "b", "stopped": i >= unstopped * lost,
                     "tokens": 1, "cut": 7 * (i < prompts_cut * lost), "generator": system} for i in range(3)
                ]  # fmt: skip
                write_table("responses", rows, path)
                responses.append({"model": model, "system": system, "path": str(path)})
                if system != "base":
                    mode, seed = system.split("/chosen/seed")
                    record = {
                        "rows": 300,
                        "rows_cut": rows_cut * lost,
                        "tokens_cut": 5,
                        "turns": 900,
                        "turns_dropped": dropped * lost,
                        "trained_tokens": 9,
                        "losses": [1.0],
                        "seconds": 1,
                    }
                    write_json(record, path.parent / "record.json")
                    tunings.append(
                        {"model": model, "mode": mode, "seed": int(seed), "path": str(path.parent / "record.json")}
                    )
            for system, seeds, table in (
                ("base", "12", "table1"),
                ("poem/chosen", "12", "table3"),
                ("chess/chosen", "1", "table4"),
            ):
                for seed in seeds:
                    own = system if system == "base" else f"{system}/seed{seed}"
                    inputs = {"responses": f"{own}/test.parquet", "opponent": f"it/chosen/seed{seed}/test.parquet"}
                    summary = RATES | judged | {"protected": protected * (system == "poem/chosen"), "inputs": {
                        name: {"path": str(tmp_path / model / path)} for name, path in inputs.items()}}  # fmt: skip
                    path = tmp_path / model / f"{system.split('/')[0]}-{seed}.json"
                    write_json(summary, path)
                    write_table("judgements", JUDGED, path.with_suffix(".parquet"))
                    figures.append({"model": model, "system": system, "label": system, "published": None, "rules": None,
                                    "tables": [table], "path": str(path)})  # fmt: skip
            ranked = {
                "summary": RANKED | {"instructions": 3, "pairs": 3, "controls": []},
                "settings": RATES["settings"],
            }
            write_json(ranked, tmp_path / model / "ranking.json")
            pairs = [PAIR | {key: row[key] for key in ("id", "cluster")} for row in JUDGED]
            write_table("ranking", pairs, tmp_path / model / "ranking.parquet")
            rankings.append({"model": model, "system": "it/chosen", "label": "it", "published": None, "path": str(tmp_path / model / "ranking.json")})  # fmt: skip
        names = ["table1", "table2", "table3", "table4"]
        settings = {"models": list(models), "figures": figures, "rankings": rankings, "responses": responses, "tunings": tunings,
                    "similarities": [], "drifts": [], "harnessed": [], "oracle": False, "data": [], "selections": [], "tables": names, "note": None}  # fmt: skip
        sys.argv = ["x", "--output", str(tmp_path / "tables"), "--settings", json.dumps(settings)]
        make_tables.response_counts.cache_clear()
        make_tables.main()
        return {
            name: {e: (tmp_path / "tables" / f"{name}.{e}").read_text() for e in ("md", "tex", "csv")} for name in names
        }

    before = sys.argv
    yield make
    sys.argv = before


LOSSES = ("Rows cut", "Turns dropped", "Prompts cut", "Responses not stopped", "Texts shown")


def notes(text):
    return [line for line in text.splitlines() if line.startswith(LOSSES)]


def test_a_run_without_losses_has_no_such_notes(tables):
    assert all(notes(table["md"]) == [] and "cut" not in table["tex"] for table in tables().values())


def test_losses_stand_under_the_tables_of_the_systems_that_had_them(tables):
    """Opponents count too, each once; table 2 shows models that rank, and nothing that was generated or judged."""
    made = tables(rows_cut=1234, unstopped=2, prompts_cut=1, protected=4)
    it = ["Rows cut at tuning.max_length: it 1,234 of 300.",
          "Prompts cut, as they left too little of the context: it 2 of 6.",
          "Responses not stopped, but cut off at max_new_tokens or the context: it 4 of 6."]  # fmt: skip
    assert notes(made["table1"]["md"]) == it
    assert notes(made["table2"]["md"]) == it[:1]
    assert notes(made["table3"]["md"]) == [
        "Rows cut at tuning.max_length: it 1,234 of 300, poem 1,234 of 300.",
        "Prompts cut, as they left too little of the context: it 2 of 6, poem 2 of 6.",
        "Responses not stopped, but cut off at max_new_tokens or the context: it 4 of 6, poem 4 of 6.",
        "Texts shown to the judge with their control marks broken up: poem 8 of 18.",
    ]
    assert notes(made["table4"]["md"])[1:] == [line.replace("of 6", "of 3").replace("it 2", "it 1").replace("it 4", "it 2") for line in it[1:]]  # fmt: skip
    for table in made.values():
        for line in notes(table["md"]):
            assert line.replace("_", r"\_") in table["tex"]
        assert not notes(table["csv"])


def test_dropped_turns_stand_under_the_tables_of_what_was_tuned_on_them(tables):
    made = tables(dropped=24)
    assert notes(made["table2"]["md"]) == ["Turns dropped, as no response follows them: it 24 of 900."]
    assert notes(made["table3"]["md"]) == ["Turns dropped, as no response follows them: it 24 of 900, poem 24 of 900."]


def test_columns_and_a_footnote_tell_of_labels_with_little_probability(tables):
    def doubts(text):
        return [line for line in text.splitlines() if line.startswith(("Labels with", "Share of comparisons won"))]

    sound = tables(label_share=0.99999, label_share_minimum=0.9996, first_shown=3.0)["table3"]
    assert 'label share,"label share, minimum"' in sound["csv"] and "1.000" in sound["csv"]
    assert doubts(sound["md"]) == []
    for mean, least in ((0.89, 0.6), (0.95, 0.49)):
        made = tables(label_share=mean, label_share_minimum=least, first_shown=50.0)["table3"]
        low, first = doubts(made["md"])
        assert low.endswith(f"mean: poem {mean:.3f}, minimum {least:.3f}.") and first.endswith("poem +50.0.")
        assert f"{mean:.3f},{least:.3f}" in made["csv"] and low in made["tex"]
    assert "label share" not in tables()["table3"]["csv"] and doubts(tables()["table3"]["md"]) == []


def test_of_several_models_each_is_named(tables):
    assert notes(tables(prompts_cut=3, models=("a", "b"))["table3"]["md"]) == [
        "Prompts cut, as they left too little of the context: a it 6 of 6, a poem 6 of 6, b it 6 of 6, b poem 6 of 6."
    ]
