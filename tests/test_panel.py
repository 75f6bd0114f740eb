"""A panel of judges: the mean of its members' preferences, and where they disagree."""

import numpy as np
import pytest
from reward_models import run_script, save_reward_model
from test_references import JUDGE, REFERENCE, asked, with_judge, written

from implicit.judging.judge import Judgements
from implicit.judging.panel import disagreement, mean_judgements
from implicit.measuring import recount
from pipeline.config.check import ConfigError, check_config
from pipeline.files.storage import read_json, read_table, write_table
from reporting.tables.card_table import agree, listed

NEAR, FAR = "The capital of France is Paris.", "A dog sleeps."


def judged(*preferences, **more):
    return Judgements(list(preferences), None, None, more.pop("protected", 0), **more)


def test_the_mean_counts_and_opposite_winners_are_a_disagreement():
    members = [judged(1.0, 2.0, 1.5, 1.8, protected=1), judged(1.0, 1.2, 2.0, 1.7), judged(1.3, 1.4, 1.5, 1.9)]
    assert mean_judgements(members).preferences == pytest.approx([1.1, 4.6 / 3, 5 / 3, 1.8])
    assert mean_judgements(members).protected == 1 and mean_judgements(members).opponent_first is None
    assert disagreement(members) == 0.25  # only the second: a tie contradicts nobody
    assert disagreement(members[:1] * 2) == 0


def test_orders_are_averaged_if_all_members_have_them():
    both = Judgements([1.5], [1.2], [1.8], 0, label_shares=[0.9])
    other = Judgements([1.1], [1.0], [1.2], 0, label_shares=[0.7])
    together = mean_judgements([both, other])
    assert (together.opponent_first, together.model_first) == (pytest.approx([1.1]), pytest.approx([1.5]))
    assert together.label_shares == [0.7]


def test_a_panel_is_the_mean_of_its_members_judged_alone(tmp_path):
    folder = save_reward_model("llama-3", tmp_path / "model")
    plain = {key: JUDGE[key] for key in ("seed", "bootstrap", "metric")}
    members = {"chrf": {"kind": "reference", "measure": "chrf"}, "rouge": {"kind": "reference", "measure": "rouge"},
               "scores": {"kind": "reward", "path": str(folder)}}  # fmt: skip
    outputs = {"model": [NEAR, FAR, NEAR, REFERENCE], "opponent": [FAR, NEAR, NEAR, NEAR]}
    alone = []
    for name, member in members.items():
        code, said = run_script(
            "judge_responses", written(tmp_path, asked(4), outputs), plain | member | {"name": name}
        )
        assert code == 0, said
        rows = read_table("judgements", tmp_path / "judged.parquet")
        assert all(row["members"] is None for row in rows)
        alone.append(([row["preference"] for row in rows], read_json(tmp_path / "judged.json")["win_rate"]))
    code, said = run_script(
        "judge_responses",
        written(tmp_path, asked(4), outputs),
        plain | {"name": "all", "kind": "panel", "members": members},
    )
    assert code == 0, said
    rows, record = read_table("judgements", tmp_path / "judged.parquet"), read_json(tmp_path / "judged.json")
    by_member = np.array([row["members"] for row in rows]).T
    assert by_member == pytest.approx(np.array([own for own, _ in alone]))
    assert [row["preference"] for row in rows] == pytest.approx(by_member.mean(axis=0))
    assert {m["judge"]: m["win_rate"] for m in record["members"]} == pytest.approx(
        dict(zip(members, [rate for _, rate in alone], strict=True))
    )
    assert record["win_rate"] == pytest.approx(np.mean([rate for _, rate in alone]))
    assert record["kind"] == "panel" and rows[0]["quality_1"] is None


def test_each_member_has_its_own_references(tmp_path):
    """One compares with the set's own, which are the model's texts; the other with another set's, the opponent's."""
    rows = asked(4, reference=NEAR)
    write_table("evaluation_set", [row | {"reference": FAR} for row in rows], tmp_path / "other.parquet")
    member = {"kind": "reference", "measure": "chrf"}
    members = {"own": member, "other": member | {"references": ["other"]}}
    words = written(tmp_path, rows, {"model": [NEAR] * 4, "opponent": [FAR] * 4})
    settings = {key: JUDGE[key] for key in ("seed", "bootstrap", "metric")} | {"name": "both", "kind": "panel"}
    code, said = run_script(
        "judge_responses", [*words, "--references", tmp_path / "other.parquet"], settings | {"members": members}
    )
    assert code == 0, said
    assert [row["members"] for row in read_table("judgements", tmp_path / "judged.parquet")] == [[2.0, 1.0]] * 4
    assert read_json(tmp_path / "judged.json")["disagreement"] == 1


def test_the_bias_of_a_panel_in_both_orders_is_recounted(sides):
    from test_judge import judge_by

    from implicit.judging.judge import judge_pairs

    one, two = sides
    members = [
        judge_pairs(one, two, judge_by(decide)[0], seed=1, both_orders=True)
        for decide in (lambda *texts: 1.0, lambda first, second: 1.0 if len(first) > len(second) else 2.0)
    ]
    together = mean_judgements(members)
    rows = [
        {
            "output_1": a["output"],
            "output_2": b["output"],
            "preference_output_1_first": x,
            "preference_output_2_first": y,
        }
        for a, b, x, y in zip(one, two, together.opponent_first, together.model_first, strict=True)
    ]
    assert together.position_bias == pytest.approx(recount.position_bias(rows)) and together.position_bias > 10


def test_members_agree_where_all_have_the_same_side_ahead():
    def rates(*values):
        return [
            {"slice": name, "value": value, "low": value - 5, "high": value + 5}
            for name, value in zip("ab", values, strict=True)
        ]

    assert agree(rates(60.0, 51.0)) == "yes" and agree(rates(60.0, 49.0)) == "no"
    assert agree(rates(50.0, 60.0)) == "no" and agree([]) == ""
    assert listed(rates(60.04, 49.96)) == "a 60.0 (55.0 to 65.0), b 50.0 (45.0 to 55.0)"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"members": {"one": {"kind": "oracle"}}}, "needs two 'members' or more"),
        ({"members": {"one": {"kind": "oracle"}, "two": None}}, "needs two 'members' or more"),
        ({"members": {"one": {"kind": "oracle"}, "two": {"kind": "panel"}}}, "judge.members.two.kind"),
        ({"members": {"one": {"kind": "oracle"}, "two": {"kind": "local"}}}, "'local' needs 'path'"),
        ({"measure": "chrf", "members": {}}, "'panel' has no 'measure'"),
        ({"members": {}}, "'panel' needs 'members'"),
        (
            {"members": {name: {"kind": "server", "server": {"base_url": f"http://{name}/v1", "model": "judge", "price": None,
             "request": {"logprobs": True, "top_logprobs": 5}}} for name in ("one", "two")}},
            "two 'members' ask for 'judge' on different servers",
        ),
        (
            {"members": {"one": {"kind": "oracle"}, "two": {"kind": "reference", "measure": "bleu", "references": ["no"]}}},
            "judge.members.two.references: 'no' is not defined",
        ),
        (
            {"members": {"one": {"kind": "oracle"}, "two": {"kind": "local", "path": "./none"}}},
            "judge.members.two.path: no such directory",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_panel_is_named(more, message):
    with pytest.raises(ConfigError, match=message):
        check_config(with_judge(**({"kind": "panel", "measure": None} | more)))


def test_a_panel_of_the_oracle_and_references_is_valid():
    members = {"one": {"kind": "oracle"}, "two": {"kind": "reference", "measure": "rouge", "references": ["test"]}}
    config = check_config(with_judge(kind="panel", measure=None, members=members))
    assert list(config.judge.panel()) == ["one", "two"] and not config.judge.computes()
