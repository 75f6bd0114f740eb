"""The judges that a config describes, ready to compare responses within a job; used by every script that judges.

A side's row has ``id``, ``instruction`` and ``output``, and what some kinds need: ``request`` and ``stopped`` for the
oracle, ``references`` for similarity: a text by the name of the evaluation set that it is from, OWN for the judged set.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from implicit.judging.judge import BY_QUALITY, Judge, Judgements, judge_pairs
from implicit.judging.kinds import local_judge, quality_judge, server_judge
from implicit.judging.local_judge import LocalModel
from implicit.judging.oracle import Oracle
from implicit.judging.panel import disagreement, mean_judgements
from implicit.judging.references import similarity
from implicit.judging.template import read_template
from implicit.measuring.texts import one_line
from implicit.servers.answers import Answers
from implicit.servers.chat_client import ChatServer
from pipeline.config.judges import Assessor
from pipeline.config.judges import Judge as JudgeSection
from pipeline.files.hub import is_hub_id
from pipeline.files.storage import read_table
from pipeline.jobs.command import InputError, say
from pipeline.jobs.costs import CHARACTERS_PER_TOKEN, scoring_hours
from pipeline.jobs.job import Job
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.record import fingerprint
from pipeline.models.directories import load_model, loading, pick_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from implicit.judging.rewards import RewardModel

Side = list[dict[str, Any]]

OWN = ""  # names the references of the set that is judged
TEMPLATE_TOKENS = 400  # of AlpacaEval 2's prompt, without the texts: for the estimate that is reserved in advance


class Comparer:
    """One judge, alone or in a panel. Models are loaded when it is created, and take a GPU only in `judging`.

    Paid requests count against the budget.
    """

    def __init__(
        self,
        name: str,
        settings: Assessor,
        args: argparse.Namespace,
        *,
        this: Job,
        answers: Answers,
        budget: Ledger | None = None,
    ) -> None:
        self.name, self.settings = name, settings
        self.reward: RewardModel | None = None
        self.scores: dict[tuple[str, str], float] = {}  # of texts that a reward model has read: each is read once
        self.judge: Judge | None = None
        self.oracle = Oracle() if settings.kind == "oracle" else None
        self.model: PreTrainedModel | None = None  # on this machine
        if settings.kind not in ("oracle", "reference"):
            self._prepare(args, this, answers, budget)

    def _prepare(self, args: argparse.Namespace, this: Job, answers: Answers, budget: Ledger | None) -> None:
        from implicit.judging.evaluators import evaluator_judge

        settings, name = self.settings, self.name
        asking = {"requests": args.requests, "timeout": args.timeout, "attempts": args.attempts}
        keeping = {"answers": answers, "floor": settings.min_label_probability}
        template = None if settings.template is None else read_template(settings.template)
        if settings.kind == "evaluator":
            self.judge = evaluator_judge(name=name, evaluator=settings.evaluator, budget=budget, **keeping, **asking)
        elif settings.kind == "server":
            server = ChatServer.from_settings(settings.server.model_dump(), **asking)
            keeping |= {"template": template, "answer": settings.answer, "budget": budget}
            self.judge = server_judge(name=name, server=server, **keeping)
        else:
            from implicit.judging.rewards import RewardModel

            precision = pick_precision(settings.precision, this.device or "cpu")
            model, tokenizer, identity = load_judge(settings, precision=precision)
            self.model = model
            if settings.kind == "reward":
                self.reward = RewardModel(model, tokenizer, identity, batch_tokens=args.batch)
            else:
                local = LocalModel(model, tokenizer, identity, batch_tokens=args.batch)
                self.judge = local_judge(local, name=name, template=template, **keeping)

    def work(self, sides: Sequence[Side], *, orders: int) -> float:
        """What comparing costs on this machine: billions of parameters times tokens."""
        if self.model is None:
            return 0.0
        tokens = sum(len(row["instruction"]) + len(row["output"]) for side in sides for row in side)
        tokens /= CHARACTERS_PER_TOKEN
        if self.settings.kind != "reward":  # each pair is read at once, in a prompt
            tokens = orders * (tokens + TEMPLATE_TOKENS * sum(map(len, sides)) / 2)
        return self.model.num_parameters() / 1e9 * tokens

    def compare(self, opponent: Side, model: Side, *, seed: int, both_orders: bool) -> tuple[Judge, Judgements]:
        """Judge a model's responses against an opponent's. The judge is returned for what it says of itself.

        With a judge that compares qualities, each row gets its ``quality``. Raises InputError for rows that lack what
        the kind of judge needs, and the errors of `judge_pairs`.
        """
        judge = self.judge
        if self.settings.kind in BY_QUALITY:
            qualities = self._qualities([*opponent, *model])
            for row, quality in zip([*opponent, *model], qualities, strict=True):
                row["quality"] = quality
            temperature = self.settings.temperature if self.settings.kind == "reward" else None
            identity = self.reward.identity if self.reward else None
            given = {"name": self.name, "kind": self.settings.kind, "identity": identity, "temperature": temperature}
            judge = quality_judge(opponent, model, **given)
        return judge, judge_pairs(opponent, model, judge, seed=seed, both_orders=both_orders)

    def _qualities(self, rows: Side) -> list[float]:
        if self.reward:
            texts = [(row["instruction"], row["output"]) for row in rows]
            new = [text for text in dict.fromkeys(texts) if text not in self.scores]
            self.scores |= dict(zip(new, self.reward.scores(new), strict=True))
            return [self.scores[text] for text in texts]
        if self.oracle:
            without = list(dict.fromkeys(row["id"] for row in rows if not row["request"]))
            if without:
                only = "the oracle only supports instructions of the tiny world"
                raise InputError(f"judge.kind: {only}, not {without[:3]}")
            return [self.oracle.quality(row["request"], row["output"], stopped=row["stopped"]) for row in rows]
        found = [references_of(self.settings, row) for row in rows]
        without = list(dict.fromkeys(row["id"] for row, own in zip(rows, found, strict=True) if None in own))
        if without:
            raise InputError(f"judge.kind: the evaluation set has no reference in rows {without[:5]}")
        measure = self.settings.measure
        return [similarity(row["output"], own, measure) for row, own in zip(rows, found, strict=True)]

    def summary(self, judge: Judge, judged: Judgements) -> dict[str, Any]:
        """The record's entries about this judge."""
        cut = {"cut": self.reward.cut} if self.reward else {}
        return judge.summary() | judged.summary() | cut


def references_in(path: Path) -> dict[str, str | None]:
    """The references of an evaluation set, by instruction, whose white space does not count."""
    return {one_line(row["instruction"]): row["reference"] for row in read_table("evaluation_set", path)}


def references_of(settings: Assessor, row: dict[str, Any]) -> list[str | None]:
    """The references that a judge of similarity compares a row with; None for one that is missing."""
    return [row["references"].get(name) for name in settings.references or [OWN]]


def rounds(rows: Side) -> Iterator[Side]:
    """The pairs in groups in which every instruction occurs once, since judgements are matched by instruction."""
    groups: list[Side] = []
    occurrences: dict[str, int] = {}
    for row in rows:
        place = occurrences[row["cluster"]] = occurrences.get(row["cluster"], -1) + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(row)
    yield from groups


class Compared(NamedTuple):
    """The judgements of some pairs: each judge's, the panel's, and the record's entries about both."""

    members: list[Judgements]
    together: Judgements
    summary: dict[str, Any]


class Panel:
    """The judges of a job, one or several, that compare the same pairs."""

    def __init__(self, judges: Sequence[Comparer], settings: JudgeSection, this: Job) -> None:
        self.judges, self.settings, self.this = judges, settings, this

    def compare(self, opponent: Side, model: Side) -> Compared:
        """Judge a model's responses against an opponent's by all judges, and count what that cost."""
        how = {"seed": self.settings.seed, "both_orders": self.settings.both_orders}
        found = [judge.compare(opponent, model, **how) for judge in self.judges]
        self.this.paid_now = sum(judge.asked.spent for judge, _ in found)
        self.this.unpriced_now = sum(judge.asked.unpriced for judge, _ in found)
        members = [judged for _, judged in found]
        together = mean_judgements(members) if self.settings.kind == "panel" else members[0]
        own = [judge.summary(*each) for judge, each in zip(self.judges, found, strict=True)]
        return Compared(members, together, self._summary(own, members) if self.settings.kind == "panel" else own[0])

    def _summary(self, own: list[dict[str, Any]], members: list[Judgements]) -> dict[str, Any]:
        rates = [100 * sum(p - 1 for p in judged.preferences) / len(judged.preferences) for judged in members]
        date = max((summary["date"] for summary in own if summary["date"]), default=None)
        about = {"judge": self.settings.name, "kind": "panel", "model": None, "date": date}
        about["members"] = [{"win_rate": rate} | summary for rate, summary in zip(rates, own, strict=True)]
        return about | {"disagreement": disagreement(members)}


@contextmanager
def judging(
    args: argparse.Namespace, this: Job, panel: dict[str, Assessor], *, sides: Sequence[Side], kept: Path
) -> Iterator[Panel]:
    """The judges of ``panel``, ready to compare ``sides``, for which GPU hours are reserved before a GPU is used.

    Answers of those that are asked are in the file ``kept``, which is locked meanwhile, and their price is counted.
    """
    settings = args.settings
    asked = any(member.kind not in BY_QUALITY for member in panel.values())
    with Answers(kept if asked else None, log=say) as answers, this.paying(answers) as budget:
        judges = [Comparer(name, own, args, this=this, answers=answers, budget=budget) for name, own in panel.items()]
        orders = 2 if settings.both_orders else 1
        this.reserve(scoring_hours, parameters=1.0, tokens=sum(judge.work(sides, orders=orders) for judge in judges))
        for judge in judges:
            if judge.model is not None:
                judge.model.to(this.device or "cpu")
        yield Panel(judges, settings, this)


def load_judge(settings: Assessor, *, precision: str) -> tuple[Any, Any, str]:
    """A judge's model on the CPU, its tokenizer, and their identity: the path with its sha256, or the hub's commit."""
    from transformers import AutoTokenizer

    path, revision = settings.path, settings.revision
    kind = "AutoModelForSequenceClassification" if settings.kind == "reward" else "AutoModelForCausalLM"
    with loading("judge.path", path):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
        model = load_model(path, device="cpu", precision=precision, revision=revision, kind=kind)
    version = model.config._commit_hash if is_hub_id(str(path)) else fingerprint(Path(path))[:12]
    return model, tokenizer, f"{path}@{version}"
