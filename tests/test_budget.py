"""Ceilings hold for sequential, concurrent and repeated jobs; the plan adds up."""

import multiprocessing

import pytest

from implicit.tuning.pretrain import Architecture, build_model
from make_plan import lines, summed
from pipeline.files.storage import write_table
from pipeline.jobs.costs import Machine, generation_hours, llama_parameters, scoring_hours, tuning_hours
from pipeline.jobs.ledger import CeilingReached, Ledger, spent

MACHINE = {"tflops": 312.0, "bandwidth": 2.0, "utilisation": 0.4}


def budget(folder, **ceilings):
    return {"folder": str(folder), "ceilings": {"gpu_hours": None, "price": None} | ceilings, "machine": MACHINE}


def test_a_job_that_would_pass_a_ceiling_does_not_start(tmp_path):
    settings = budget(tmp_path / "ledger", price=10.0)
    Ledger(settings, "one").reserve(price=6.0)
    with pytest.raises(
        CeilingReached, match=r"ceilings.price: two needs about 5 of price, 6 are spent .* ceiling is 10"
    ):
        Ledger(settings, "two").reserve(price=5.0)
    Ledger(settings, "one").settle(price=2.0)  # it used less than was reserved
    Ledger(settings, "two").reserve(price=5.0)
    Ledger(settings, "two").reserve(price=7.5)  # again, after a crash: its own entry is replaced, not added
    assert spent(tmp_path / "ledger") == {"gpu_hours": 0.0, "price": 9.5}


def test_no_ceiling_stops_nothing_and_hours_do_not_count_as_price(tmp_path):
    Ledger(None, "a").reserve(price=1e9)
    settings = budget(tmp_path / "ledger", gpu_hours=1.0)
    Ledger(settings, "a").reserve(price=1e9, gpu_hours=0.9)
    with pytest.raises(CeilingReached, match="GPU hours"):
        Ledger(settings, "b").reserve(gpu_hours=0.2)


def test_requests_are_counted_before_they_are_sent(tmp_path):
    ledger = Ledger(budget(tmp_path / "ledger", price=1.0), "a")
    ledger.reserve(price=0.5)
    for _ in range(10):
        ledger.spend(0.1)
    with pytest.raises(CeilingReached):
        ledger.spend(0.1)
    assert spent(tmp_path / "ledger")["price"] == pytest.approx(1.0)


def _try(folder, name):
    try:
        Ledger(budget(folder, price=10.0), name).reserve(price=1.0)
    except CeilingReached:
        return 0
    return 1


def test_jobs_that_start_together_do_not_pass_a_ceiling_together(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        started = pool.starmap(_try, [(tmp_path / "ledger", f"job {i}") for i in range(40)])
    assert sum(started) == 10


def test_costs_by_hand():
    machine = Machine(**MACHINE)
    day = tuning_hours(machine, parameters=7.0, tokens=1_000_000, checkpointing=False)
    assert day == pytest.approx(6 * 7e9 * 1e6 / (312e12 * 0.4) / 3600)
    assert tuning_hours(machine, parameters=7.0, tokens=1_000_000, checkpointing=True) == pytest.approx(day * 8 / 6)
    assert scoring_hours(machine, parameters=7.0, tokens=1_000_000) == pytest.approx(day / 3)
    by_hand = 13 * 3 * 300 * 7e9 * 2 / (2e12 * 0.4) / 3600  # 805 prompts in 13 batches of 64
    assert generation_hours(machine, parameters=7.0, prompts=805, response_tokens=300, batch=64) == pytest.approx(
        by_hand
    )


def plan_settings(tmp_path, jobs):
    return {"jobs": jobs, "machine": MACHINE, "gpu": "A100-80GB", "response_tokens": 300, "batch": 64, "checkpointing": True, "device": "auto",
            "ceilings": {"gpu_hours": 1.0, "price": None}, "ledger": str(tmp_path / "ledger")}  # fmt: skip


def judging(kind, **changes):
    """805 judgements, as the plan counts them."""
    judge = {"kind": kind, "answer_tokens": 1, "price": None, "evaluator": None} | changes
    return {"stage": "judge", "judges": [judge], "calls": 805, "outputs": ["z"]}


def test_a_panel_costs_what_its_members_cost_and_a_reward_model_asks_nobody(tmp_path):
    server, local, reward = (
        judging("server", price={"input": 2.0, "output": 8.0}),
        judging("local"),
        judging("reward"),
    )
    panel = server | {"judges": [*server["judges"], *local["judges"], *reward["judges"], *server["judges"]]}
    (one,), (all_,) = (summed([job], plan_settings(tmp_path, [job])) for job in (server, panel))
    assert (all_["price"], all_["judge_tokens"]) == (2 * one["price"], 2 * one["judge_tokens"])
    assert (one["calls"], all_["calls"]) == (805, 3 * 805) and all_["gpu_hours"] is None and one["gpu_hours"] == 0


def test_a_card_costs_its_pairs_and_copies_or_is_not_known(tmp_path):
    job = judging("server", price={"input": 2.0, "output": 8.0})
    card = job | {"stage": "card", "orders": 2, "annotations": str(tmp_path / "none.parquet")}
    known, unknown = (
        summed([own], plan_settings(tmp_path, [own]))[0] for own in (card | {"sample": 500}, card | {"sample": None})
    )
    assert known["calls"] == 2 * (500 + 100) and known["price"] > 0
    assert unknown["calls"] is None and unknown["price"] is None


def test_the_plan_counts_what_is_still_to_do(tmp_path):
    (tmp_path / "done.json").write_text("{}")
    rows = [
        {
            "id": "a",
            "messages": [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y" * 3600}],
            "source": "s",
        }
    ]
    write_table("conversations", rows, tmp_path / "data.parquet")
    data = {"stage": "tune", "parameters": 7.0, "examples": 10, "mean_tokens": 50, "epochs": 4}
    jobs = [
        data
        | {
            "data": str(tmp_path / "data.parquet"),
            "outputs": [str(tmp_path / "done.json"), str(tmp_path / "new.json")],
        },
        data | {"data": "not/yet.parquet", "outputs": ["x", "y"]},
        judging("server", price={"input": 2.0, "output": 8.0}),
    ]
    settings = plan_settings(tmp_path, jobs)
    tune, judge = summed(jobs, settings)
    assert (tune["jobs"], tune["to do"], tune["tokens"]) == (4, 3, 1000 * 4 + 2 * 10 * 50 * 4)
    each = judge["judge_tokens"] / 805
    assert judge["price"] == pytest.approx(805 * (each * 2 + 8) / 1e6)
    text = "\n".join(lines([tune, judge], settings))
    assert "within the ceiling of 1\n" in text and "no ceiling (ceilings.price)" in text
    settings["ceilings"]["gpu_hours"] = 1e-6
    assert "ABOVE the ceiling of 1e-06" in "\n".join(lines([tune, judge], settings))


def test_on_a_cpu_no_gpu_hours_are_planned(tmp_path):
    shape = {"vocabulary": 1024, "layers": 4, "width": 192, "tokens": 10**6}
    jobs = [{"stage": "pretrain", **shape, "outputs": ["x"]}, {"stage": "similarity", "outputs": ["y"]}]
    settings = plan_settings(tmp_path, jobs)
    pretrain, similarity = summed(jobs, settings)
    assert pretrain["gpu_hours"] > 0 and similarity["gpu_hours"] is None
    assert "UNKNOWN whether" in "\n".join(lines([pretrain, similarity], settings))
    assert {row["gpu_hours"] for row in summed(jobs, settings | {"device": "cpu"})} == {0.0}


def test_what_a_pretrained_model_is_expected_to_have_is_what_it_has(tokenizer):
    shape = Architecture(hidden_size=96, layers=3, heads=4, context=64)
    count = build_model(shape, tokenizer, seed=0).num_parameters() / 1e9
    assert llama_parameters(width=96, layers=3, vocabulary=len(tokenizer)) == pytest.approx(count, rel=0.05)


def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    jobs = [
        {
            "stage": "tune",
            "parameters": None,
            "examples": None,
            "mean_tokens": None,
            "epochs": 1,
            "data": "no",
            "outputs": ["x"],
        }
    ]
    text = "\n".join(lines(summed(jobs, plan_settings(tmp_path, jobs)), plan_settings(tmp_path, jobs)))
    assert "unknown" in text.splitlines()[1] and "set `parameters`" in text
    assert "UNKNOWN whether this stays within the ceiling of 1\n" in text and ": within" not in text


@pytest.mark.parametrize("job", [
    judging("server"), judging("evaluator", evaluator="guanaco_33b"),
    judging("evaluator", evaluator="claude"), {"stage": "rewrite", "examples": 10, "mean_tokens": 9, "price": None, "outputs": ["z"]},
])  # fmt: skip
def test_a_price_that_is_not_known_is_within_no_ceiling(tmp_path, job):
    settings = plan_settings(tmp_path, [job])
    settings["ceilings"]["price"] = 100.0
    text = lines(summed([job], settings), settings)
    assert text[1].endswith("unknown") and text[2].endswith("unknown")
    assert text[-1] == "price: 0.0 spent, at least 0.0 in total: UNKNOWN whether this stays within the ceiling of 100"
    Ledger(budget(tmp_path / "ledger"), "before").settle(price=200.0, unpriced_calls=7)
    text = lines(summed([job], settings), settings)
    assert "200.0 spent and 7 calls of unknown price, at least 200.0 in total: ABOVE" in text[-1]


def test_the_price_of_an_evaluator_is_alpaca_evals_own_or_its_configs(tmp_path):
    jobs = [judging("evaluator", evaluator="weighted_alpaca_eval_gpt4_turbo")]
    (judge,) = summed(jobs, plan_settings(tmp_path, jobs))
    assert judge["price"] == pytest.approx((judge["judge_tokens"] + 805) * 10e-6)  # per token, for gpt-4-1106-preview
    (local,) = summed([judging("local")], plan_settings(tmp_path, jobs))
    assert (local["price"], local["gpu_hours"], local["calls"]) == (0.0, None, 805)


def test_known_amounts_are_within_a_ceiling_only_where_the_past_is_known_too(tmp_path):
    job = judging("server", price={"input": 0.0, "output": 0.0})
    settings = plan_settings(tmp_path, [job])
    settings["ceilings"]["price"] = 1.0
    assert "within the ceiling" in lines(summed([job], settings), settings)[-1]
    Ledger(budget(tmp_path / "ledger"), "before").settle(unpriced_calls=1)
    assert "UNKNOWN whether" in lines(summed([job], settings), settings)[-1]
