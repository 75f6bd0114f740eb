"""A judge's card: agreement with known judgements, recounted by other code, and which pairs are left out."""

import json
import random
from argparse import Namespace
from statistics import fmean

import pytest
from reward_models import run_script
from scipy.stats import spearmanr
from test_config_names import DEFAULT as RAW

from implicit.judging import card
from implicit.judging.training import key_of
from judge_annotations import chosen, compared, copies_of, sides_of, unseen, with_references
from make_annotations import annotated, drawn, verdict
from pipeline.config.check import ConfigError, check_config
from pipeline.config.datasets import Annotations
from pipeline.config.judges import Assessor
from pipeline.files.storage import read_json, read_table, write_json, write_table
from pipeline.jobs.command import InputError
from pipeline.jobs.comparing import rounds


def pairs(count=240, models=6, seed=0):
    """Pairs as tables of kind `compared` hold them, with a judge that is often right."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        annotators = [rng.choice([1.0, 1.5, 2.0]) for _ in range(3)]
        wanted = fmean(annotators)
        rows.append({
            "id": str(i), "cluster": str(i // models), "model_1": "base", "model_2": f"m{i % models}", "copy": False,
            "length_1": rng.randint(1, 60), "length_2": rng.randint(1, 60), "annotators": annotators, "annotation": wanted,
            "preference": min(2.0, max(1.0, rng.gauss(wanted + 0.05 * (i % models), 0.4))),
        })  # fmt: skip
    rows[0] |= {"preference": 1.5, "length_1": 7, "length_2": 7}
    return rows


def test_agreement_is_recounted_by_other_code():
    rows = pairs()
    won = [row for row in rows if row["annotation"] != 1.5]
    found = card.agreements(rows)

    def share(ahead):
        return 100 * fmean(
            0.5 if ahead(row) == 0 else float((ahead(row) > 0) == (row["annotation"] > 1.5)) for row in won
        )

    assert {rate.n for who, rate in found.items() if who != "people"} == {len(won)}
    assert found["judge"].value == pytest.approx(share(lambda row: row["preference"] - 1.5))
    assert found["longer"].value == pytest.approx(share(lambda row: row["length_2"] - row["length_1"]))
    second = share(lambda row: 1)
    assert found["majority"].value == pytest.approx(max(second, 100 - second))
    each = [
        0.5 if one == 1.5 else float(one == other)
        for row in rows
        for i, one in enumerate(row["annotators"])
        for j, other in enumerate(row["annotators"])
        if i != j and other != 1.5
    ]
    assert (found["people"].value, found["people"].n) == (pytest.approx(100 * fmean(each)), len(each))
    for rate in found.values():
        assert 0 <= rate.low < rate.value < rate.high <= 100


def test_an_interval_is_wider_where_pairs_of_an_instruction_agree_by_nature():
    rows = [row | {"annotation": 2.0, "annotators": [2.0]} for row in pairs()]
    for row in rows:
        row["preference"] = 2.0 if int(row["cluster"]) % 2 else 1.0
    together = card.agreements(rows)["judge"]
    apart = card.agreements([row | {"cluster": row["id"]} for row in rows])["judge"]
    assert together.value == apart.value == 50
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_single_annotator_has_nobody_to_agree_with():
    assert "people" not in card.agreements([row | {"annotators": row["annotators"][:1]} for row in pairs()])


def test_slices_are_pairs_of_similar_length_and_of_the_weakest_models():
    rows = [row | {"annotation": row["annotation"] - 0.001 * int(row["model_2"][1:])} for row in pairs(models=8)]
    found = card.slices(rows)
    assert found["all"] == rows
    assert all(
        4 * max(r["length_1"], r["length_2"]) <= 5 * min(r["length_1"], r["length_2"]) for r in found["similar length"]
    )
    rates = {
        name: fmean(r["annotation"] for r in rows if r["model_2"] == name) for name in {r["model_2"] for r in rows}
    }
    assert {row["model_2"] for row in found["weakest models"]} == set(sorted(rates, key=rates.get)[:2])
    assert set(card.slices([row | {"model_2": None} for row in rows])) == {"all", "similar length"}  # fmt: skip


def test_a_taste_for_length_counts_only_pairs_of_different_length():
    rows = pairs()
    rows[1] |= {"length_1": 5, "length_2": 5}
    longer = [row for row in rows if row["length_1"] != row["length_2"]]
    signs = [1 if row["length_2"] > row["length_1"] else -1 for row in longer]
    wins = [
        0.5 if row["preference"] == 1.5 else (row["preference"] > 1.5) == (sign > 0)
        for row, sign in zip(longer, signs, strict=True)
    ]
    found = card.taste_for_length(rows)
    assert (found["judge"].value, found["judge"].n) == (pytest.approx(100 * fmean(wins)), len(longer))  # fmt: skip


def test_the_reliability_curve_holds_every_pair_once():
    rows = pairs()
    points = card.reliability(rows)
    assert sum(n for *_, n in points) == len(rows)
    assert sum(given * n for given, _, n in points) == pytest.approx(sum(row["preference"] - 1 for row in rows))
    assert sum(wanted * n for _, wanted, n in points) == pytest.approx(sum(row["annotation"] - 1 for row in rows))
    assert [given for given, *_ in points] == sorted(given for given, *_ in points)


def test_rank_correlation_is_scipys_and_needs_five_models():
    rows = pairs(models=8)
    given, wanted = (card.win_rates(rows, key) for key in ("preference", "annotation"))
    names = sorted(given)
    rate = card.rank_correlation(given, wanted)
    assert rate.value == pytest.approx(spearmanr([given[n] for n in names], [wanted[n] for n in names]).statistic)
    assert rate.n == 8 and rate.low <= rate.value <= rate.high
    assert card.rank_correlation(dict.fromkeys(names, 50.0), wanted) is None
    assert card.rank_correlation(*({n: own[n] for n in names[:4]} for own in (given, wanted))) is None
    assert card.win_rates([row | {"model_1": row["model_2"]} for row in rows], "preference") == {}
    assert card.controlled_win_rates(rows, "preference") == {}  # too few pairs of each
    many = pairs(count=600, models=5)
    controlled = card.controlled_win_rates(many, "preference")  # without those whose lengths explain nothing
    assert controlled and set(controlled) <= set(card.win_rates(many, "preference"))


def test_a_baseline_in_the_second_column_is_the_same():
    rows = pairs(count=600, models=5)
    for row in rows:  # no two models have the same win rate
        row["annotation"] = 1.5 + 0.98 * (row["annotation"] - 1.5) - 0.001 * int(row["model_2"][1:])
    turned = [
        row | {"model_1": row["model_2"], "model_2": row["model_1"], "length_1": row["length_2"], "length_2": row["length_1"]}
        | {key: 3 - row[key] for key in ("preference", "annotation")}
        for row in rows
    ]  # fmt: skip
    for key in ("preference", "annotation"):
        assert card.win_rates(turned, key) == pytest.approx(card.win_rates(rows, key))
        assert card.controlled_win_rates(turned, key) == pytest.approx(card.controlled_win_rates(rows, key))
    weakest = [[row["id"] for row in card.slices(own)["weakest models"]] for own in (rows, turned)]
    assert weakest[0] == weakest[1] and len(weakest[0]) == 120
    asked = [row | {"instruction": "Say it."} for row in turned]
    assert unseen(asked, {"instructions": [], "models": ["base"]}) == asked


def test_both_orders_give_a_bias_and_consistency():
    orders = [(1.0, 1.0), (2.0, 2.0), (1.0, 2.0), (1.5, 1.5)]
    rows = [{"preference_output_1_first": one, "preference_output_2_first": two} for one, two in orders]
    assert card.of_orders(rows) == (12.5, 75.0)  # the third takes the first both times
    assert card.of_orders([{"preference_output_1_first": None, "preference_output_2_first": None}]) is None


SOURCE = {"file": "known.jsonl", "instruction": "{q}\n\n{input}", "outputs": ["a", "b"], "preferences": ["one", "two"]}


def known(folder, rows, **more):
    (folder / "known.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    own = Annotations(**SOURCE | {"file": str(folder / "known.jsonl")} | more)
    return list(annotated("mine", own))


def test_known_judgements_are_read_as_alpaca_eval_writes_them(tmp_path, capsys):
    told = {"q": "Say  one.", "input": "", "a": "x", "b": "y"}
    rows = [told | {"one": 1, "two": 2.0}, told | {"q": "Say one.", "one": 0, "two": 1.75}, told | {"one": None, "two": None},
            told | {"q": "Two", "input": "three", "one": "1.5", "two": ""}]  # fmt: skip
    found = known(tmp_path, rows)
    assert [row["annotators"] for row in found] == [[1, 2], [1.5, 1.75], [1.5]]
    assert [row["annotation"] for row in found] == [1.5, 1.625, 1.5]
    assert [row["id"] for row in found] == ["mine-0", "mine-1", "mine-3"]
    assert [row["cluster"] for row in found] == ["mine-0", "mine-0", "mine-3"]
    assert [row["instruction"] for row in found] == ["Say  one.", "Say one.", "Two\n\nthree"]
    assert "3 pairs of 4 rows" in capsys.readouterr().out and found[0]["model_1"] is None


@pytest.mark.parametrize("cell", ["3", "0.5", "better", "-1", "nan", "inf"])
def test_what_is_no_preference_is_named_with_its_place(cell):
    with pytest.raises(InputError, match=rf"row 7: a preference is from 1 to 2.*{cell}"):
        verdict(cell, "row 7")


def test_a_sample_is_drawn_by_the_name_and_keeps_the_order():
    rows = [{"id": str(i)} for i in range(50)]
    found = drawn(rows, "mine", 10)
    assert found == drawn(rows, "mine", 10) != drawn(rows, "other", 10)
    assert [int(row["id"]) for row in found] == sorted(int(row["id"]) for row in found)
    with pytest.raises(InputError, match=r"annotations\.mine\.sample: 60"):
        drawn(rows, "mine", 60)


def annotation_rows(count=12, models=3):
    return [
        {"id": f"k-{i}", "cluster": f"k-{i // models}", "instruction": f"Say {i // models}.", "model_1": "base",
         "model_2": f"m{i % models}", "output_1": "One.", "output_2": f"Two {i}.", "annotators": [2.0], "annotation": 2.0}
        for i in range(count)
    ]  # fmt: skip


def test_pairs_that_a_judge_was_trained_on_are_left_out_by_instruction_and_by_model():
    rows = annotation_rows()
    record = {"instructions": [key_of("Say   1.")], "models": ["m2", "base"]}
    left = unseen(rows, record)
    assert {row["instruction"] for row in left} == {"Say 0.", "Say 2.", "Say 3."}
    assert {row["model_2"] for row in left} == {"m0", "m1"}  # the common opponent does not count
    assert unseen([row | {"model_1": None, "model_2": None} for row in rows], record) == [
        row | {"model_1": None, "model_2": None} for row in rows if row["instruction"] != "Say 1."
    ]


def evaluation_set(path, references):
    table = [
        {"id": str(i), "index": i, "instruction": text, "reference": reference, "request": None, "cluster": str(i), "source": "here"}
        for i, (text, reference) in enumerate(references.items())
    ]  # fmt: skip
    write_table("evaluation_set", table, path)
    return path


def test_pairs_need_a_reference_that_is_not_one_of_the_two(tmp_path):
    first = evaluation_set(tmp_path / "a.parquet", {"Say 0.": "Zero.", "Say  1.": "Two 4.", "Say 2.": None})
    second = evaluation_set(
        tmp_path / "b.parquet", {"Say 0.": "Nought.", "Say 1.": "A one.", "Say 2.": "x", "Say 3.": "y"}
    )
    found = with_references(annotation_rows(), {"": first, "b": second})
    assert [row["id"] for row in found] == ["k-0", "k-1", "k-2", "k-3", "k-5"]
    assert found[0]["references"] == {"": "Zero.", "b": "Nought."}  # fmt: skip


def test_in_a_group_every_instruction_occurs_once_and_no_pair_is_lost():
    rows = annotation_rows(13)
    groups = list(rounds(rows))
    assert sorted(row["id"] for group in groups for row in group) == sorted(row["id"] for row in rows)
    assert [len(group) for group in groups] == [5, 4, 4]
    for group in groups:
        assert len({row["cluster"] for row in group}) == len(group)
        one, two = sides_of(group)
        assert [(a["id"], a["instruction"]) for a in one] == [(b["id"], b["instruction"]) for b in two]


def test_a_reward_model_reads_a_response_once_however_often_it_is_compared():
    from pipeline.config.judges import Assessor
    from pipeline.jobs.comparing import Comparer

    read = []
    comparer = Comparer("x", Assessor(kind="reference", measure="chrf"), Namespace(), this=None, answers=None)
    comparer.reward = Namespace(scores=lambda texts: read.extend(texts) or [float(len(text)) for _, text in texts])
    for group in rounds(annotation_rows()):
        one, two = sides_of(group)
        found = comparer._qualities([*one, *two])
        assert found == [float(len(row["output"])) for row in [*one, *two]]
    assert len(read) == len(set(read)) == 4 + 12


def test_copies_are_pairs_of_a_response_with_itself():
    for row in copies_of(annotation_rows()):
        assert row["output_1"] != row["output_2"] and row["output_1"] == row["output_2"].strip() and row["copy"]


SETTINGS = {
    "name": "chrf",
    "kind": "reference",
    "measure": "chrf",
    "seed": 0,
    "bootstrap": 10,
    "metric": "length_controlled_minimal",
}


def test_known_judgements_are_judged_and_counted(tmp_path):
    rows = annotation_rows()
    write_table("annotations", rows, tmp_path / "known.parquet")
    evaluation_set(
        tmp_path / "set.parquet", {"Say 0.": "Two 1. And", "Say 1.": "One. One.", "Say 2.": "Two 7.", "Say 3.": "x"}
    )
    words = [word for name in ("annotations", "set", "output", "summary") for word in (f"--{name}",
             tmp_path / {"annotations": "known.parquet", "set": "set.parquet", "output": "card.parquet",
                         "summary": "card.json"}[name])]  # fmt: skip
    code, said = run_script("judge_annotations", words, SETTINGS)
    assert code == 0, said
    table, record = read_table("compared", tmp_path / "card.parquet"), read_json(tmp_path / "card.json")
    assert (record["pairs"], record["seen"], record["without_reference"]) == (11, 0, 1)
    assert "11 of 12 pairs; left out: 0" in said and record["judge"] == "chrf" and "win_rate" not in record
    by_id = {row["id"]: row["preference"] for row in table}
    assert by_id["k-1"] == 2 and by_id["k-4"] == 1 and not any(row["copy"] for row in table)


def test_a_set_of_which_nothing_can_be_judged_is_one_line(tmp_path):
    rows = annotation_rows()
    args = Namespace(references=[], set=None, annotations="known")
    for name, seen in (("all", ["m0", "m1", "m2"]), ("some", ["m0", "m1"])):
        (tmp_path / name).mkdir()
        write_json({"instructions": [], "models": seen}, tmp_path / name / "seen.json")
    some, all_ = (Assessor(kind="reward", path=str(tmp_path / name)) for name in ("some", "all"))
    left, counts = chosen(args, rows, {"one": some})
    assert {row["model_2"] for row in left} == {"m2"} and counts == {"seen": 8, "without_reference": 0}
    with pytest.raises(InputError, match=r"judge.card: no pair of known can be judged"):
        chosen(args, rows, {"one": some, "two": all_})


def test_rows_of_the_table_keep_lengths_instead_of_texts():
    from implicit.judging.judge import Judgements

    rows = annotation_rows(2)
    table = compared(rows, Judgements([1.2, 1.9], None, None, 0))
    assert [(row["length_1"], row["length_2"], row["preference"]) for row in table] == [(4, 6, 1.2), (4, 6, 1.9)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"judge": RAW["judge"] | {"card": ["none"]}}, "judge.card: 'none' is not defined; defined are none"),
        (
            {"judge": RAW["judge"] | {"card": ["mine"]}, "annotations": {"mine": {"hub": {"id": "a/b"}}}},
            "judge.card: .*the oracle knows only",
        ),
        ({"annotations": {"mine": {"preferences": ["p"]}}}, "annotations.mine: needs a source"),
        ({"annotations": {"mine": {"file": "a.jsonl", "outputs": ["x"]}}}, "annotations.mine.outputs"),
    ],
)
def test_what_is_wrong_with_known_judgements_is_named(more, message):
    with pytest.raises(ConfigError, match=message):
        check_config(RAW | more)


def test_people_and_chrf_on_real_judgements(shared, tmp_path):
    """PandaLM's test set: what docs/judges.md says of people, length and chrF there."""
    import gzip

    rows = json.loads(gzip.decompress((shared / "pandalm" / "testset-v1.json.gz").read_bytes()))
    kept = [row for row in rows if isinstance(row["response1"], str) and isinstance(row["response2"], str)]
    told = {"instruction": "{instruction}\n\n{input}", "outputs": ["response1", "response2"]}
    found = known(tmp_path, kept, **told, preferences=["annotator1", "annotator2", "annotator3"])
    for row in found:
        row |= {"length_1": len(row["output_1"]), "length_2": len(row["output_2"]), "preference": 1.5}
    rates = card.agreements(found)
    assert rates["judge"].value == 50 and 60 < rates["longer"].value < 75 and rates["people"].value > 90
