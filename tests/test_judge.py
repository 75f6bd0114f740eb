import gzip
import json

import numpy as np
import pandas as pd
import pytest
from alpaca_eval.metrics import get_length_controlled_winrate, glm_winrate

from implicit.judge import METRIC, IncompleteJudging, annotate, judge_with_oracle, protect, win_rates
from implicit.oracle import Oracle, describe


@pytest.fixture
def sides(world):
    """Responses of three qualities to the same instructions: right, of another request, and right but rambling."""
    items, oracle = world.evaluation("test", 40), Oracle()

    def side(texts):
        rows = []
        for i, (item, text) in enumerate(zip(items, texts, strict=True)):
            quality = oracle.quality(describe(item, world.seed), text, stopped=True)
            rows.append({"id": str(i), "instruction": item.instruction, "output": text, "quality": quality})
        return rows

    right = [item.response for item in items]
    mixed = [
        text if i % 3 == 0 else right[i - 1] if i % 3 == 1 else text + " and so on" * 9 for i, text in enumerate(right)
    ]
    return side(right), side(mixed)


def table(first, second, preferences):
    return [
        {
            "id": a["id"], "instruction": a["instruction"], "output_1": a["output"], "output_2": b["output"],
            "generator_1": "one", "generator_2": "two", "preference": p,
        }
        for a, b, p in zip(first, second, preferences, strict=True)
    ]  # fmt: skip


def test_preferences_equal_the_quality_that_they_are_defined_by(sides):
    first, second = sides
    preferences = judge_with_oracle(first, second, name="oracle", seed=0)
    for a, b, preference in zip(first, second, preferences, strict=True):
        assert preference == (1.5 if a["quality"] == b["quality"] else 1 if a["quality"] > b["quality"] else 2)
    assert {1.0, 1.5} <= set(preferences)
    swapped = judge_with_oracle(second, first, name="oracle", seed=0)
    assert [3 - p for p in preferences] == swapped
    assert judge_with_oracle(first, second, name="oracle", seed=9) == preferences  # the order shown does not matter


def test_hostile_texts_do_not_leave_their_place(sides):
    first, second = sides
    second[0]["output"], second[1]["output"] = "{output_1}", "x\x1ey {instruction} \u2028 \x00 🙂"
    first[2]["output"] = "{output_2}"
    preferences = judge_with_oracle(first, second, name="oracle", seed=0)
    assert preferences == [
        1.5 if a["quality"] == b["quality"] else 1 if a["quality"] > b["quality"] else 2
        for a, b in zip(first, second, strict=True)
    ]
    assert "{output_1}" not in protect("{output_1}")


def test_a_missing_judgement_fails_and_names_the_row(sides):
    first, second = sides

    def complete(prompts):
        return {"completions": ["nonsense" if second[4]["instruction"] in p else "output_2" for p in prompts]}

    with pytest.raises(IncompleteJudging, match=r"1 of 40 .* rows \['4'\]"):
        annotate(
            first, second, name="judge", seed=0, template="{instruction} {output_1} {output_2}", complete=complete,
            parse=lambda answer: [{"output_2": 2.0}.get(answer)],
        )  # fmt: skip


def test_sides_that_do_not_match_are_refused(sides):
    first, second = sides
    with pytest.raises(ValueError, match="the same instructions in the same order"):
        judge_with_oracle(first[::-1], second, name="oracle", seed=0)
    with pytest.raises(ValueError, match=r"rows without an output: \['3'\]"):
        judge_with_oracle(first, [*second[:3], second[3] | {"output": None}, *second[4:]], name="oracle", seed=0)


def test_win_rate_and_its_error(sides):
    first, second = sides
    preferences = [1.0] * 10 + [2.0] * 20 + [1.5] * 10
    rates = win_rates(table(first, second, preferences), bootstrap=400, seed=0)
    assert (rates["n"], rates["wins"], rates["losses"], rates["ties"]) == (40, 20, 10, 10)
    assert rates["win_rate"] == pytest.approx(100 * (20 + 5) / 40)
    exact = 100 * np.std(np.array(preferences) - 1) / np.sqrt(40)  # of a mean over draws with replacement
    assert rates["win_rate_error"] == pytest.approx(exact, rel=0.12)


def test_length_control_is_left_out_where_it_is_not_defined(sides):
    first, _ = sides
    rates = win_rates(table(first, first, [1.5] * 40), bootstrap=5, seed=0)
    assert rates["lc_win_rate"] is None and "same length" in rates["lc_note"]
    rates = win_rates(table(*sides, [1.5] * 40)[:6], bootstrap=5, seed=0)
    assert rates["lc_win_rate"] is None and "too few" in rates["lc_note"]
    rates = win_rates(table(*sides, [1.0] * 40), bootstrap=5, seed=0)  # all lost: alpaca-eval says 50
    assert rates["win_rate"] == 0 and rates["lc_win_rate"] is None and "says 50" in rates["lc_note"]


@pytest.mark.parametrize("name", ["claude-2.1", "gpt4_gamed"])
def test_win_rates_of_real_annotations(shared, name, monkeypatch, tmp_path):
    """Raw as on the public leaderboard; our length-controlled figure as alpaca-eval's with its own table."""
    folder = shared / "alpaca_eval"
    rows = json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
    expected = json.loads((folder / "expected.json").read_text())[name]
    rows = [row | {"id": str(i)} for i, row in enumerate(rows)]
    ours = win_rates(rows, bootstrap=20, seed=0)
    assert ours["win_rate"] == pytest.approx(expected["win_rate"], abs=1e-8)
    assert ours["n"] == expected["n_total"]
    real = tmp_path / "df_gamed.csv"
    real.write_bytes(gzip.decompress((folder / "df_gamed.csv.gz").read_bytes()))
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda *args, **kwargs: str(real))
    frame = pd.DataFrame(rows).assign(index=range(len(rows)))
    options = {"save_weights_dir": None, "is_warn_extreme_changes": False}
    minimal = get_length_controlled_winrate(frame.copy(), glm_name=METRIC, **options)
    assert ours["lc_win_rate"] == pytest.approx(minimal["length_controlled_winrate"], abs=1e-8)
    assert 0 < ours["lc_win_rate_error"] < 10
    version_1 = get_length_controlled_winrate(frame.copy(), glm_name="length_controlled_v1", **options)
    assert version_1["length_controlled_winrate"] == pytest.approx(
        expected["length_controlled_winrate_sklearn_1_9"], abs=1e-4
    )
