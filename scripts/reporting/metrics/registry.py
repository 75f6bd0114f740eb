"""Every metric of an experiment: its name, unit, direction, decimals and definition, and how to read it from a file.

``take`` gets a file's `Content` and returns a value (None if undefined), or a `Number` for each slice.
``pool`` gets the contents for all seeds of a system, and returns numbers over them: means with an interval, or
quantiles.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from implicit.judging.artefacts import judged_otherwise
from implicit.measuring.intervals import mean_interval
from implicit.measuring.texts import distinct_bigrams, repeats_instruction
from implicit.scoring.rank import capability_interval
from implicit.tuning.optimise import learning_rate_factor
from reporting.metrics.card_metrics import (
    agreements_of,
    copies,
    longer_wins,
    rank_correlations,
    reliability,
    shown_first,
)
from reporting.metrics.check_metrics import checks_passed, passed_over_seeds, prompts_passed
from reporting.page.content import ORACLE, Content, Number

Taken = float | None | list[Number]
DRAWS = ("any", "same_kind", "same_format")
QUANTILES = {"p5": 0, "p25": 4, "median": 9, "p75": 14, "p95": 18}  # index into the 19 cut points between twentieths


@dataclass(frozen=True)
class Metric:
    """A number that comes from a stage's files."""

    name: str
    stage: str
    unit: str
    decimals: int
    definition: str
    take: Callable[[Content], Taken] = lambda content: []
    pool: Callable[[Sequence[Content]], list[Number]] = lambda contents: []
    better: str = ""  # "higher" or "lower", if one is
    section: str = ""  # of the paper


def share(of: Callable[[dict], bool]) -> Callable[[Content], float]:
    """The percentage of a file's rows that satisfy a condition."""
    return lambda content: 100 * statistics.fmean(of(row) for row in content.rows)


def count(of: Callable[[dict], bool]) -> Callable[[Content], float]:
    """The number of a file's rows that satisfy a condition."""
    return lambda content: sum(map(of, content.rows))


def mean(of: Callable[[dict], float]) -> Callable[[Content], float]:
    """The mean over a file's rows."""
    return lambda content: statistics.fmean(map(of, content.rows))


def distinct(content: Content) -> list[Number]:
    """The mean share of distinct bigrams over responses of at least two words."""
    shares = [each for each in (distinct_bigrams(row["output"]) for row in content.rows) if each is not None]
    return [Number(100 * statistics.fmean(shares) if shares else None, len(shares))]


def recorded(key: str, *, percent: bool = False) -> Callable[[Content], float | None]:
    """A value in a record or a comparison's summary; None if it is missing."""

    def take(content: Content) -> float | None:
        value = content.json.get(key)
        return 100 * value if percent and value is not None else value

    return take


def of_labels(key: str) -> Callable[[Content], list[Number]]:
    """A summary's value on the labels' share of probability, with the number of answers that have one."""
    return lambda content: [
        Number(content.json.get(key), sum(row["label_share"] is not None for row in content.rows) or None)
    ]


def preferred_over_seeds(
    contents: Sequence[Content], preference: Callable[[dict], float], slice: str = "all"
) -> Number:
    """A win rate's mean over seeds with its 95 % interval over seeds and clusters of instructions."""
    own = contents[0].json["settings"]
    points = [[100 * (preference(row) - 1) for row in content.rows] for content in contents]
    clusters = [row["cluster"] for row in contents[0].rows]
    ones = [[1.0] * len(clusters) for _ in contents]
    low, high = mean_interval(points, ones, clusters, draws=own["bootstrap"], seed=own["seed"])
    mean = statistics.fmean(map(statistics.fmean, points))
    return Number(mean, len(clusters), slice, low=low, high=high)


def win_rate_over_seeds(contents: Sequence[Content]) -> list[Number]:
    """The win rate over seeds."""
    return [preferred_over_seeds(contents, lambda row: row["preference"])]


def members_over_seeds(contents: Sequence[Content]) -> list[Number]:
    """The win rate over seeds by each member of a panel."""
    return [
        preferred_over_seeds(contents, lambda row, place=place: row["members"][place], member["judge"])
        for place, member in enumerate(contents[0].json.get("members", []))
    ]


def by_scores(key: str) -> Callable[[Content], list[Number]]:
    """A percentage of pairs for each kind of negatives and each score, with and without EOS."""

    def take(content: Content) -> list[Number]:
        return [
            Number(100 * own[score][key], own["pairs"], slice=draw["negatives"], part=part)
            for draw in content.summary["controls"]
            for part, (score, eos) in SCORES.items()
            for own in [draw["with_eos" if eos else "without_eos"]]
        ]

    return take


SCORES = {
    "sequence": ("sequence", True),
    "sequence without EOS": ("sequence", False),
    "token": ("token", True),
    "token without EOS": ("token", False),
}


def capability_over_seeds(contents: Sequence[Content]) -> list[Number]:
    """Each capability's mean over seeds with its 95 % interval over seeds and clusters of instructions."""
    own = contents[0].json["settings"]
    taken = [by_scores("capability")(content) for content in contents]
    numbers = []
    for each in zip(*taken, strict=True):
        score, eos = SCORES[each[0].part]
        tables = [content.negatives(each[0].slice) for content in contents]
        ends = capability_interval(tables, score, bootstrap=own["bootstrap"], seed=own["seed"], eos=eos)
        low, high = (100 * end for end in ends)
        value = statistics.fmean(number.value or 0.0 for number in each)
        numbers.append(Number(value, each[0].n, each[0].slice, each[0].part, low=low, high=high))
    return numbers


def of_draws(take: Callable[[dict], float]) -> Callable[[Content], list[Number]]:
    """A number for each kind of negatives."""
    return lambda content: [Number(take(draw), slice=draw["negatives"]) for draw in content.summary["controls"]]


def quality_by_kind(content: Content) -> list[Number]:
    """The mean quality by the oracle, of all responses and by kind of request."""
    if content.requests is None:
        return []
    found: dict[str, list[float]] = {kind: [] for kind in sorted(set(map(ORACLE.kind, content.requests.values())))}
    for row in content.rows:
        request = content.requests[row["id"]]
        quality = ORACLE.quality(request, row["output"], stopped=row["stopped"])
        found[ORACLE.kind(request)].append(quality)
    every = [quality for own in found.values() for quality in own]
    return [Number(statistics.fmean(own), len(own), slice=kind) for kind, own in ({"all": every} | found).items()]


def rejudged(key: str) -> Callable[[Content], list[Number]]:
    """An outcome for the same pairs with other judges."""

    def take(content: Content) -> list[Number]:
        if content.requests is None or content.result.opponent == "references":
            return []
        outcomes = judged_otherwise(content.rows, content.requests, ORACLE)
        return [Number(getattr(own, key), own.n, slice=view) for view, own in outcomes.items()]

    return take


def of_members(content: Content) -> list[Number]:
    """The win rate by each member of a panel."""
    return [Number(member["win_rate"], slice=member["judge"]) for member in content.json.get("members", [])]


def token_quantiles(contents: Sequence[Content]) -> list[Number]:
    """Quantiles of response lengths in tokens, pooled over seeds."""
    tokens = [row["tokens"] for content in contents for row in content.rows]
    cuts = statistics.quantiles(tokens, n=20, method="inclusive") if len(tokens) > 1 else tokens * 19
    return [Number(cuts[place], len(tokens), slice=name) for name, place in QUANTILES.items()]


def adherence(content: Content) -> list[Number]:
    """The percentage of responses with each style, by quartile of similarity."""
    return [
        Number(100 * rate["rate"], rate["n"], slice=style, part=quartile)
        for style, rates in content.summary["adherence"].items()
        for quartile, rate in rates.items()
    ]


def recalled(key: str) -> Callable[[Content], list[Number]]:
    """The percentage of facts, by the form of the question."""
    return lambda content: [
        Number(100 * own[key], own.get("facts"), slice=form) for form, own in content.summary["recall"].items()
    ]


def learning_rates(content: Content) -> list[Number]:
    """The learning rate of each step."""
    tuning, steps = content.json["settings"]["tuning"], len(content.json["losses"])
    shape = {"steps": steps, "warmup": tuning["warmup"]}
    return [
        Number(tuning["learning_rate"] * learning_rate_factor(tuning["schedule"], i, **shape), step=i + 1)
        for i in range(steps)
    ]


def per_task(content: Content) -> list[Number]:
    """Every metric of every task of the harness."""
    return [
        Number(value, slice=task, part=metric)
        for task, metrics in content.summary.items()
        for metric, value in metrics.items()
    ]


HIGHER, LOWER = {"better": "higher"}, {"better": "lower"}
PERCENT = ("percent", 1)
TIES = "comparisons or pairs in which both are equally good"
DECLARED = [
    # A comparison of one system's responses with an opponent's, instruction by instruction.
    Metric("win_rate", "judge", *PERCENT, "mean preference of a judge for the system against its opponent",
           recorded("win_rate"), win_rate_over_seeds, **HIGHER, section="table 1"),
    Metric("win_rate_error", "judge", *PERCENT, "standard error of the win rate, over instructions",
           recorded("win_rate_error")),
    Metric("lc_win_rate", "judge", *PERCENT, "win rate at equal lengths, by AlpacaEval's regression",
           recorded("lc_win_rate"), **HIGHER, section="table 1"),
    Metric("ties", "judge", *PERCENT, TIES, lambda c: 100 * c.json["ties"] / c.json["n"]),
    Metric("quality", "judge", "0 to 1", 2, "mean quality of judged responses, by the oracle or a reference",
           recorded("quality_2"), **HIGHER),
    Metric("opponent_quality", "judge", "0 to 1", 2, "mean quality of the opponent's, likewise",
           recorded("quality_1")),
    Metric("position_bias", "judge", "points", 1, "wins of the output shown first, above one half",
           recorded("position_bias")),
    Metric("first_shown", "judge", "points", 1, "the same from random orders, where each pair was shown once",
           recorded("first_shown")),
    Metric("label_share", "judge", "0 to 1", 3, "mean probability of the labels in a judge's answers",
           of_labels("label_share")),
    Metric("label_share_minimum", "judge", "0 to 1", 3, "minimum probability of the labels in a judge's answers",
           of_labels("label_share_minimum")),
    Metric("protected", "judge", "count", 0, "texts shown to the judge with special markers broken up",
           lambda c: [Number(c.json.get("protected"), 3 * c.json["n"])]),  # an instruction and two outputs each
    Metric("rejudged_win_rate", "judge", *PERCENT, "win rate with a more lenient oracle", rejudged("win_rate")),
    Metric("member_win_rate", "judge", *PERCENT, "win rate by a member of a panel", of_members,
           members_over_seeds),
    Metric("disagreement", "judge", *PERCENT, "comparisons in which members of a panel prefer different sides",
           recorded("disagreement", percent=True)),
    Metric("rejudged_ties", "judge", *PERCENT, "ties with a more lenient oracle", rejudged("ties")),
    # Responses.
    Metric("stopped", "generate", *PERCENT, "responses that end with EOS", share(lambda r: r["stopped"])),
    Metric("tokens", "generate", "tokens", 1, "mean length of a response", mean(lambda r: r["tokens"])),
    Metric("token_quantile", "generate", "tokens", 1, "length of a response", pool=token_quantiles),
    Metric("characters", "generate", "characters", 1, "mean length of a response", mean(lambda r: len(r["output"]))),
    Metric("empty", "generate", "count", 0, "responses without text", count(lambda r: not r["output"].strip())),
    Metric("repeats", "generate", *PERCENT, "responses that contain their whole instruction",
           share(lambda r: repeats_instruction(r["instruction"], r["output"]))),
    Metric("distinct_bigrams", "generate", *PERCENT, "distinct pairs of successive words in a response",
           distinct),
    Metric("prompts_cut", "generate", "count", 0, "prompts that left too little of the context",
           count(lambda r: r["cut"] > 0)),
    Metric("not_stopped", "generate", "count", 0, "responses cut off at max_new_tokens or the context",
           count(lambda r: not r["stopped"])),
    Metric("oracle_quality", "generate", "0 to 1", 2, "mean quality of responses by kind of request",
           quality_by_kind, **HIGHER),
    # Ranking of the true response among others, by negatives and score, with and without EOS.
    Metric("capability", "rank", *PERCENT, "pairs in which the true response is more likely",
           by_scores("capability"), capability_over_seeds, **HIGHER, section="table 2"),
    Metric("ranking_ties", "rank", *PERCENT, TIES, by_scores("ties")),
    Metric("ranked", "rank", "count", 0, "instructions that have a negative",
           of_draws(lambda draw: draw["with_eos"]["instructions"])),
    Metric("left_out", "rank", "count", 0, "instructions without any negative", of_draws(lambda d: d["left_out"])),
    Metric("fewer", "rank", "count", 0, "instructions with fewer negatives than requested",
           of_draws(lambda draw: draw["fewer"])),
    # The judge's card: its preferences where others' are known.
    Metric("agreement", "card", *PERCENT, "pairs in which the annotators' winner is preferred, by whom",
           agreements_of, **HIGHER),
    Metric("longer_wins", "card", *PERCENT, "pairs in which the longer response wins", longer_wins),
    Metric("reliability", "card", *PERCENT, "annotators' mean preference where the judge's is as in `part`",
           reliability),
    Metric("rank_correlation", "card", "", 2, "rank correlation of models' win rates with the annotators'",
           rank_correlations, **HIGHER),
    Metric("card_bias", "card", "points", 1, "wins of the response shown first, above one half", shown_first(0)),
    Metric("card_consistent", "card", *PERCENT, "pairs with the same winner in both orders", shown_first(1)),
    Metric("copies", "card", *PERCENT, "win rate of the second of two equal responses", copies),
    *(Metric(key, "card", "count", 0, definition, recorded(key)) for key, definition in (
        ("seen", "pairs with an instruction or a model that the judge was trained on: left out"),
        ("without_reference", "pairs without a reference, or with the reference itself: left out"))),
    # Similarity to the tuning data, and its style.
    Metric("adherence", "similarity", *PERCENT, "responses in a style of tuning data, by quartile of similarity",
           adherence, section="5.2"),
    Metric("similarity_correlation", "similarity", "", 2, "rank correlation of the two similarities",
           lambda content: content.summary["spearman"], section="5.2"),
    # Checks of responses, by the way of checking.
    Metric("prompts_passed", "checks", *PERCENT, "responses that pass all checks of their prompt",
           prompts_passed, passed_over_seeds(prompts=True), **HIGHER),
    Metric("checks_passed", "checks", *PERCENT, "single checks that pass",
           checks_passed, passed_over_seeds(prompts=False), **HIGHER),
    # The cost of tuning.
    Metric("perplexity", "drift", "", 3, "perplexity of held-out text",
           lambda c: c.summary["tuned_perplexity"], **LOWER),
    Metric("base_perplexity", "drift", "", 3, "perplexity of the base model", lambda c: c.summary["base_perplexity"]),
    Metric("kl", "drift", "nats per token", 4, "KL(base || tuned) on held-out text",
           lambda c: c.summary["kl"], **LOWER),
    Metric("recall", "drift", *PERCENT, "facts whose correct value is the most likely", recalled("tuned"), **HIGHER),
    Metric("base_recall", "drift", *PERCENT, "recall of the base model", recalled("base")),
    Metric("chance_recall", "drift", *PERCENT, "recall by chance", recalled("chance")),
    *(Metric(f"drift_{key}", "drift", "count", 0, f"{key} of held-out text", lambda c, key=key: c.summary[key])
      for key in ("documents", "tokens", "cut")),
    Metric("harness", "harness", "", 4, "a metric of a task of lm-evaluation-harness", per_task),
    # Tuning.
    *(Metric(key, "tune", "count", 0, definition, recorded(key)) for key, definition in (
        ("rows", "rows of the dataset"), ("tokens_cut", "tokens truncated beyond tuning.max_length"),
        ("trained_tokens", "tokens included in the loss"))),
    Metric("rows_cut", "tune", "count", 0, "rows truncated at tuning.max_length",
           lambda c: [Number(c.json["rows_cut"], c.json["rows"])]),
    Metric("turns_dropped", "tune", "count", 0, "turns of the dataset that no response follows",
           lambda c: [Number(c.json["turns_dropped"], c.json["turns"])]),
    Metric("tokens_read", "tune", "count", 0, "tokens of all epochs, without padding", recorded("tokens")),
    Metric("tokens_per_step", "tune", "tokens", 1, "tokens per step, without padding",
           lambda c: c.json["tokens"] / len(c.json["losses"]) if c.json.get("tokens") else None),
    Metric("first_loss", "tune", "nats per token", 3, "training loss of the first step", lambda c: c.json["losses"][0]),
    Metric("last_loss", "tune", "nats per token", 3, "training loss of the last step",
           lambda c: c.json["losses"][-1], **LOWER),
    Metric("loss", "tune", "nats per token", 4, "training loss of a step",
           lambda c: [Number(loss, step=i) for i, loss in enumerate(c.json["losses"], start=1)]),
    Metric("learning_rate", "tune", "", 6, "learning rate of a step", learning_rates),
    # The choice of an epoch count, and the data.
    Metric("chosen", "select", "0 or 1", 0, "whether an epoch count was chosen by validation",
           lambda c: [Number(float(e["epochs"] == c.json["epochs"]), slice=str(e["epochs"])) for e in c.json["grid"]]),
    Metric("data_rows", "data", "count", 0, "rows of a dataset or evaluation set",
           lambda c: [Number(len(c.rows), slice=c.result.kind.replace("_", " "))]),
]  # fmt: skip
METRICS = {metric.name: metric for metric in DECLARED}
