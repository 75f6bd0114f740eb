"""No judge spends more than the price ceiling allows, in one job or in several."""

import multiprocessing

import pytest
from judge_server import (
    BUDGET,
    TEMPLATE,
    Service,
    asking,
    good,
    judged,
    served,
)

from implicit.judging.kinds import server_judge
from implicit.servers.answers import Answers
from implicit.servers.chat_client import ServerError
from pipeline.jobs.ledger import CeilingReached, Ledger, spent

pytestmark = pytest.mark.usefixtures("judge_key")


class Four:
    """A budget with money for four requests, that lets everybody begin."""

    def __init__(self):
        self.begun, self.prices = [], []

    def begin(self, price):
        self.begun.append(price)

    def spend(self, price):
        if len(self.prices) == 4:
            raise RuntimeError("the ceiling is reached")
        self.prices.append(price)

    def correct(self, difference):
        pass


def test_no_request_is_sent_that_would_pass_a_ceiling(pairs, tmp_path):
    budget, service = Four(), Service(good)
    with pytest.raises(RuntimeError, match="the ceiling is reached"):
        judged(service, pairs, tmp_path / "a.jsonl", budget=budget)
    assert len(service.bodies) == 4 == len((tmp_path / "a.jsonl").read_text().splitlines())
    assert all(0 < price < 0.01 for price in budget.prices)
    with pytest.raises(ServerError, match=r"judge: ceilings\.price is set, but the price is not known"):
        judged(service, pairs, None, budget=budget, input_price=None)
    everything = Four()
    judged(Service(good), pairs[:1] * 2, None, budget=everything)  # equal sides: nothing to ask
    assert everything.begun == []


def ledger(folder, job, price):
    return Ledger({"folder": str(folder), "ceilings": {"gpu_hours": None, "price": price}} | BUDGET, job)


def _judge(url, pairs, folder, number, ceiling):
    """A judging job in a process of its own: whether the ceiling allowed it."""
    with Answers(None) as answers:
        judge = server_judge(
            name="judge", server=asking(url), answers=answers, template=TEMPLATE, floor=0.0, budget=ledger(folder, f"job {number}", ceiling),
        )  # fmt: skip
        try:
            judge.complete([f"{TEMPLATE} {row['id']} (m) good {number}" for row in pairs[1]])
        except CeilingReached:
            return 0
    return 1


def test_jobs_at_the_same_time_do_not_pass_a_ceiling_together(pairs, tmp_path):
    """Four concurrent jobs of twelve questions, with a budget for two: two ask all of theirs, two ask nothing."""
    service = Service(lambda body: good(body) | {"usage": None})  # so that each costs exactly the estimate
    with served(service) as url:
        budget = Four()
        with Answers(None) as answers:
            judge = server_judge(
                name="j", server=asking(url), answers=answers, template=TEMPLATE, floor=0.0, budget=budget
            )
            with pytest.raises(RuntimeError, match="the ceiling"):
                judge.complete([f"{TEMPLATE} {row['id']} (m) good 0" for row in pairs[1]])
        one, service.bodies = budget.begun[0], []
        with multiprocessing.get_context("fork").Pool(4) as pool:
            let = pool.starmap(_judge, [(url, pairs, tmp_path / "ledger", i, 2.5 * one) for i in range(4)], chunksize=1)
    assert sorted(let) == [0, 0, 1, 1] and len(service.bodies) == 24
    assert spent(tmp_path / "ledger")["price"] <= 2.5 * one


def test_answers_that_cost_more_than_was_estimated_stop_at_the_ceiling_and_are_kept(pairs, tmp_path):
    """Each costs 0.0103 instead of about 0.0005: with a budget for four, only requests in flight exceed it."""
    path = tmp_path / "a.jsonl"
    service = Service(lambda body: good(body) | {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}})
    with pytest.raises(CeilingReached, match=r"ceilings.price: job needs about"):
        judged(service, pairs, path, budget=ledger(tmp_path / "ledger", "job", 0.045), requests=2)
    kept = path.read_text().splitlines()
    assert 5 <= len(service.bodies) <= 6 and len(kept) == len(service.bodies)


def test_a_comparison_that_would_pass_a_ceiling_sends_nothing_at_all(pairs, tmp_path):
    service = Service(good)
    with pytest.raises(CeilingReached, match=r"ceilings.price: job needs about"):
        judged(service, pairs, tmp_path / "a.jsonl", budget=ledger(tmp_path / "ledger", "job", 0.002))
    assert service.bodies == []
