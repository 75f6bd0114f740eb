"""The metrics recomputed for `verify` from judgements, scores and responses, independently of the collecting code.

Quality by kind comes from the judgements, whereas the metric asks the oracle about every response; the harness's
numbers come from its own files. Values that only a record has, such as losses, are not recomputed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from implicit.measuring import recount
from implicit.world.kinds import Request
from implicit.world.sets import World
from pipeline.files.storage import read_json, read_table
from pipeline.identity.systems import Experiment, Result

Row = dict[str, Any]
QUALITY = {"quality": "quality_2", "opponent_quality": "quality_1"}
SHARES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


@dataclass(frozen=True)
class Count:
    """A recomputed number: which one, and its value."""

    source: str
    metric: str
    value: float | None
    n: int | None = None  # None: not recomputed
    slice: str = "all"
    part: str = ""
    ends: tuple[float, float] | None = None  # of the interval over seeds; None for a single seed
    level: str = "seed"


def table(result: Result, kind: str) -> list[Row]:
    """The table next to a summary."""
    return read_table(kind, Path(result.path).with_suffix(".parquet"))


def of(experiment: Experiment, stage: str, *, validated: bool = False) -> list[list[Result]]:
    """The files of a stage, grouped by system over seeds; ``validated``: those of validated epoch counts."""
    groups: dict[tuple[str, str, int | None], list[Result]] = {}
    for result in experiment.results:
        if result.stage == stage and (result.opponent == "references") == validated:
            groups.setdefault((result.model, result.system.name, result.system.epochs), []).append(result)
    return list(groups.values())


class Recount:
    """Recomputes an experiment's metrics. ``gamed`` is AlpacaEval's df_gamed.csv, for length_controlled_v1."""

    def __init__(self, experiment: Experiment, gamed: Path | None = None) -> None:
        self.experiment, self.gamed = experiment, gamed
        self.requests = {model: self._requests(path) for model, path in experiment.sets.items() if experiment.oracle}
        self.qualities: dict[tuple[str, str], float] = {}  # by generator and id
        self.worlds: dict[int, World] = {}
        self.uncontrolled = 0  # comparisons whose length control needs the missing table

    def __call__(self) -> Iterator[Count]:
        """Recompute all of them."""
        for validated in (False, True):
            for results in of(self.experiment, "judge", validated=validated):
                yield from self.judged(results)
        for results in of(self.experiment, "generate"):
            yield from self.generated(results)
        for results in of(self.experiment, "rank"):
            yield from self.ranked(results)
        for results in of(self.experiment, "checks"):
            for name in {result.set: None for result in results}:
                yield from checked([result for result in results if result.set == name])
        for stage, count in {"similarity": similarity, "drift": drift, "harness": harness}.items():
            for results in of(self.experiment, stage):
                for result in results:
                    yield from count(result)
        yield from self.chosen()
        for result in [result for result in self.experiment.results if result.stage == "card"]:
            yield from card(result)
        for result in [result for result in self.experiment.results if result.stage == "data"]:
            count = len(read_table(result.kind, Path(result.path)))
            yield Count(result.path, "data_rows", count, slice=result.kind.replace("_", " "))

    def _requests(self, path: str) -> dict[str, Row]:
        return {row["id"]: json.loads(row["request"]) for row in read_table("evaluation_set", Path(path))}

    def judged(self, results: list[Result]) -> Iterator[Count]:
        """Comparisons of one system."""
        seeds, own = [], {}
        by_member: dict[str, list[list[tuple[float, int]]]] = {}
        for result in results:
            rows, own = table(result, "judgements"), read_json(result.path)["settings"]
            counts = recount.win_rate(rows)
            values = {metric: counts[metric] for metric in ("win_rate", "ties")}
            values |= {metric: counts[key] for metric, key in QUALITY.items()}
            values["win_rate_error"] = recount.win_rate_error(rows, draws=own["bootstrap"], seed=own["seed"])
            values["position_bias"] = recount.position_bias(rows)
            full = own["metric"] == "length_controlled_v1"
            if not full or self.gamed:
                values["lc_win_rate"] = recount.controlled_win_rate(rows, gamed=self.gamed if full else None)
            else:
                self.uncontrolled += 1
            yield from (Count(result.path, metric, value, counts["n"]) for metric, value in values.items())
            share, minimum, answers = recount.label_shares(rows)
            yield Count(result.path, "label_share", share, answers)
            yield Count(result.path, "label_share_minimum", minimum, answers)
            yield Count(result.path, "disagreement", recount.disagreement(rows))
            for place, member in enumerate(read_json(result.path).get("members", [])):
                won = sum(row["members"][place] - 1 for row in rows)
                yield Count(result.path, "member_win_rate", 100 * won / len(rows), slice=member["judge"])
                sums = recount.by_cluster(rows, [100 * (row["members"][place] - 1) for row in rows])
                by_member.setdefault(member["judge"], []).append(sums)
            seeds.append(recount.by_cluster(rows, [100 * (row["preference"] - 1) for row in rows]))
            if self.experiment.oracle and result.opponent != "references":
                yield from self.rejudged(result, rows)
        if results[0].system.epochs is None:
            yield over_seeds(results[0], "win_rate", seeds, own)
            for name, sums in by_member.items():
                yield over_seeds(results[0], "member_win_rate", sums, own, slice=name)

    def rejudged(self, result: Result, rows: list[Row]) -> Iterator[Count]:
        """The same pairs with other judges, using the world's own checkers."""
        for row in rows:
            asked = self.requests[result.model][row["id"]]
            world = self.worlds.setdefault(asked["world"], World(asked["world"]))
            request = Request(asked["kind"], tuple(asked["key"]), tuple(asked["detail"]))
            for side in ("1", "2"):
                row[f"checked_{side}"] = world.kinds[asked["kind"]].check(request, row[f"output_{side}"])
                self.qualities.setdefault((row[f"generator_{side}"], row["id"]), row[f"quality_{side}"])
        for name, counts in recount.artefacts(rows).items():
            for key in ("win_rate", "ties"):
                yield Count(result.path, f"rejudged_{key}", counts[key], counts["n"], slice=name)

    def generated(self, results: list[Result]) -> Iterator[Count]:
        """Responses of one system."""
        lengths = []
        for result in results:
            rows = read_table("responses", Path(result.path))
            count, stopped = len(rows), len([row for row in rows if row["stopped"]])
            values = {
                "stopped": 100 * stopped / count,
                "not_stopped": count - stopped,
                "tokens": sum(row["tokens"] for row in rows) / count,
                "characters": sum(len(row["output"]) for row in rows) / count,
                "empty": len([row for row in rows if row["output"].strip() == ""]),
                "prompts_cut": len([row for row in rows if row["cut"]]),
            }
            words = [re.findall(r"\S+", row["output"].casefold()) for row in rows]
            asked = [" ".join(re.findall(r"\S+", row["instruction"].casefold())) for row in rows]
            again = [text != "" and " ".join(own).find(text) >= 0 for text, own in zip(asked, words, strict=True)]
            values["repeats"] = 100 * np.mean(again)
            yield from (Count(result.path, metric, value, count) for metric, value in values.items())
            shares = [len({*pairwise(own)}) / (len(own) - 1) for own in words if len(own) > 1]
            yield Count(result.path, "distinct_bigrams", 100 * np.mean(shares) if shares else None, len(shares))
            lengths += [row["tokens"] for row in rows]
            yield from self.qualities_of(result)
        for name, share in SHARES.items():
            value = float(np.quantile(lengths, share))
            yield Count(results[0].path, "token_quantile", value, len(lengths), name, level="seeds")

    def qualities_of(self, result: Result) -> Iterator[Count]:
        """Quality by kind of request from the judgements, for the judged system or the opponent."""
        requests = self.requests.get(result.model, {})
        kinds = sorted({request["kind"] for request in requests.values()})
        for kind in ["all", *kinds] if requests else []:
            ids = [id_ for id_, request in requests.items() if kind in ("all", request["kind"])]
            own = [self.qualities.get((f"{result.model}/{result.system.path}", id_)) for id_ in ids]
            value = None if None in own else sum(own) / len(own)
            yield Count(result.path, "oracle_quality", value, len(own), slice=kind)

    def ranked(self, results: list[Result]) -> Iterator[Count]:
        """Rankings of one system, for each kind of negatives, with and without EOS."""
        settings = read_json(results[0].path)["settings"]
        tables = [table(result, "ranking") for result in results]
        for draw in settings["negatives"]:
            chosen = [[row for row in rows if row["negatives"] == draw] for rows in tables]
            for result, rows in zip(results, chosen, strict=True):
                counts: dict[str, int] = {}
                for row in rows:
                    counts[row["id"]] = counts.get(row["id"], 0) + 1
                fewer = len([count for count in counts.values() if count < settings["others"]])
                values = {"ranked": len(counts), "left_out": settings["instructions"] - len(counts), "fewer": fewer}
                yield from (Count(result.path, metric, value, slice=draw) for metric, value in values.items())
            for eos, ending in ((True, ""), (False, " without EOS")):
                found = [recount.ranking(rows, eos=eos) for rows in chosen]
                for score in ("sequence", "token"):
                    place = {"slice": draw, "part": score + ending}
                    for result, own in zip(results, found, strict=True):
                        values = {"capability": own[score]["capability"], "ranking_ties": own[score]["ties"]}
                        for metric, value in values.items():
                            yield Count(result.path, metric, 100 * value, own["pairs"], **place)
                    seeds = [[(100 * won, pairs) for won, pairs in own[score]["clusters"]] for own in found]
                    yield over_seeds(results[0], "capability", seeds, settings, **place)

    def chosen(self) -> Iterator[Count]:
        """The epoch count with the highest validation win rate; the smallest if there are ties."""
        rates: dict[tuple[str, str], dict[int, float]] = {}
        for results in of(self.experiment, "judge", validated=True):
            for result in results:
                rows = table(result, "judgements")
                own = rates.setdefault((result.model, result.system.name), {})
                own[result.system.epochs or 0] = recount.win_rate(rows)["win_rate"]
        for (result,) in of(self.experiment, "select"):
            tried = rates.get((result.model, result.system.name))
            if tried:
                best = min(count for count in tried if tried[count] == max(tried.values()))
                yield from (Count(result.path, "chosen", float(e == best), slice=str(e)) for e in tried)


def over_seeds(first: Result, metric: str, seeds: list[list[tuple[float, int]]], settings: Row, **place: str) -> Count:
    """A mean over seeds with its interval, from (sum, count) by cluster for each seed."""
    rates = [sum(total for total, _ in own) / sum(count for _, count in own) for own in seeds]
    ends = recount.mean_over_seeds(seeds, draws=settings["bootstrap"], seed=settings["seed"])
    return Count(first.path, metric, sum(rates) / len(rates), ends=ends, level="seeds", **place)


def checked(results: list[Result]) -> Iterator[Count]:
    """The checks of one system's responses."""
    tables = [table(result, "checks") for result in results]
    for way in sorted({row["way"] for row in tables[0]}):
        seeds: dict[str, list[list[tuple[float, int]]]] = {"prompts_passed": [], "checks_passed": []}
        for result, rows in zip(results, tables, strict=True):
            own: dict[str, list[int]] = {}
            for row in rows:
                if row["way"] == way:
                    own.setdefault(row["cluster"], []).append(int(row["passed"]))
            prompts = [(100 * min(passed), 1) for passed in own.values()]
            single = [(100 * sum(passed), len(passed)) for passed in own.values()]
            for metric, sums in (("prompts_passed", prompts), ("checks_passed", single)):
                above, below = (sum(column) for column in zip(*sums, strict=True))
                yield Count(result.path, metric, above / below, below, slice=result.set, part=way)
                seeds[metric].append(sums)
        for metric, sums in seeds.items():
            yield over_seeds(results[0], metric, sums, {"bootstrap": 1000, "seed": 0}, slice=results[0].set, part=way)


def card(result: Result) -> Iterator[Count]:
    """A judge's card."""
    for metric, name, part, value, n in recount.card(table(result, "compared")):
        yield Count(result.path, metric, value, n, name, part)


def similarity(result: Result) -> Iterator[Count]:
    """Section 5.2."""
    rows = table(result, "similarity")
    styles = [name for name in rows[0] if name not in ("id", "index", "x", "y")]
    found = recount.similarity(rows, styles)
    yield Count(result.path, "similarity_correlation", found["spearman"])
    for style in styles:
        for quartile, share in found[style].items():
            yield Count(result.path, "adherence", share, slice=style, part=quartile)


def drift(result: Result) -> Iterator[Count]:
    """The cost of tuning for one model, from its tables of documents and facts."""
    folder = Path(result.path).parent
    tables = [read_table(kind, folder / f"{kind}.parquet") for kind in ("drift", "recall")]
    counts = recount.drift(*tables)
    yield Count(result.path, "perplexity", counts["tuned_perplexity"], counts["documents"])
    yield from (Count(result.path, metric, counts[metric]) for metric in ("base_perplexity", "kl"))
    yield from (Count(result.path, f"drift_{key}", counts[key]) for key in ("documents", "tokens", "cut"))
    for form, own in counts["recall"].items():
        for metric, key in (("recall", "tuned"), ("base_recall", "base"), ("chance_recall", "chance")):
            yield Count(result.path, metric, own[key], own["facts"], slice=form)


def harness(result: Result) -> Iterator[Count]:
    """lm-evaluation-harness's numbers, from its own file."""
    for task, metrics in read_json(Path(result.path).with_name("harness.json"))["results"].items():
        for metric, value in metrics.items():
            if metric.find(",") > 0 and "_stderr," not in metric and not isinstance(value, str):
                yield Count(result.path, "harness", value, slice=task, part=metric)
