"""Training a reward model on known judgements.

The loss is that of Bradley and Terry (1952) with a preference p between 0 and 1 for the second response, as annotators
give it: -p log sigmoid(r2 - r1) - (1 - p) log sigmoid(r1 - r2), averaged over the pairs of a step.
"""

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from implicit.judging.card import baseline
from implicit.judging.rewards import Encoded, scores_of
from implicit.measuring.texts import one_line
from implicit.tuning.checkpoint import Checkpoints, Interrupted, noticing_sigterm
from implicit.tuning.optimise import NonFiniteLoss, StepLog, learning_rate_factor
from implicit.tuning.tune import autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, Any]


class Pair(NamedTuple):
    """Two texts, by their index, and the preference for the second, from 0 to 1."""

    first: int
    second: int
    preference: float


@dataclass(frozen=True)
class Training:
    """How a reward model is trained; see ``JudgeTraining`` in ``pipeline.config.judges``."""

    epochs: int
    pairs: int
    batch_size: int  # pairs
    learning_rate: float
    warmup: float
    weight_decay: float
    evaluations: int
    seed: int
    batch_tokens: int  # computed together, padding included
    precision: torch.dtype
    device: str = "cpu"


def key_of(instruction: str) -> str:
    """What identifies an instruction in records: a hash, which white space does not change."""
    return hashlib.sha256(one_line(instruction).encode()).hexdigest()[:16]


def exempt(rows: Sequence[Row]) -> set[str | None]:
    """The models that all others of a set are compared with: none is held out, since each is in every pair."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    return {None}.union(*({row[f"model_{side}"] for row in own} for own in sets.values() if (side := baseline(own))))


class Split(NamedTuple):
    """Pairs to train on and to validate on; instructions (as keys) and models of either, which a card must avoid."""

    training: list[Row]
    validation: list[Row]
    instructions: list[str]
    models: list[str]


def split(
    rows: Sequence[Row], *, models: float, instructions: float, never: set[str], validation: float, seed: int
) -> Split:
    """Divide pairs by models and by instructions, so that validation has neither in common with training.

    ``models`` and ``instructions`` are the shares that are held out, ``never`` the keys of instructions that are held
    out besides. Pairs of a model of one part and an instruction of another are not used.
    """
    rng = random.Random(f"split/{seed}")
    common = exempt(rows)
    names = sorted({row[side] for row in rows for side in ("model_1", "model_2")} - common, key=str)
    keys = sorted({key_of(row["instruction"]) for row in rows} - never)
    parts = []
    for members, share in ((names, models), (keys, instructions)):
        kept = rng.sample(members, len(members))[round(share * len(members)) :]
        count = round(validation * len(kept))
        parts.append((set(kept[count:]), set(kept[:count])))
    (own, own_validation), (asked, asked_validation) = parts

    def taken(of_models: set[str], of_keys: set[str]) -> list[Row]:
        return [
            row
            for row in rows
            if key_of(row["instruction"]) in of_keys and {row["model_1"], row["model_2"]} - common <= of_models
        ]

    used = [*taken(own, asked)], [*taken(own_validation, asked_validation)]
    seen = {row[side] for part in used for row in part for side in ("model_1", "model_2")} - {None}
    return Split(*used, sorted(asked | asked_validation), sorted(seen))


def plan(clusters: Sequence[str], settings: Training) -> list[list[list[int]]]:
    """The steps of training, each a list of groups of pairs of one instruction: places in ``clusters``.

    The order is a function of seed and epoch. Groups have at most ``pairs`` pairs; a step takes groups until it has
    ``batch_size`` pairs.
    """
    steps: list[list[list[int]]] = []
    for epoch in range(settings.epochs):
        rng = random.Random(f"order/{settings.seed}/{epoch}")
        of_cluster: dict[str, list[int]] = {}
        for place in rng.sample(range(len(clusters)), len(clusters)):
            of_cluster.setdefault(clusters[place], []).append(place)
        size = settings.pairs
        groups = [own[start : start + size] for own in of_cluster.values() for start in range(0, len(own), size)]
        rng.shuffle(groups)
        room = 0
        for group in groups:
            if room <= 0:
                steps.append([])
                room = settings.batch_size
            steps[-1].append(group)
            room -= len(group)
    return steps


class Trained(torch.nn.Module):
    """A model in training with the best weights so far, and what each evaluation found: all that a checkpoint needs."""

    def __init__(self, model: "PreTrainedModel", evaluations: int) -> None:
        super().__init__()
        self.model = model
        self.own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for place, parameter in enumerate(self.own):
            self.register_buffer(f"best_{place}", parameter.detach().clone())
        self.register_buffer("history", torch.full((evaluations, 4), math.nan, dtype=torch.float64))

    @torch.no_grad()
    def keep(self, place: int, found: Sequence[float]) -> None:
        """Note an evaluation: step, pairs seen, loss and agreement. Keep the weights if no earlier loss was lower."""
        best = self.history[:, 2].nan_to_num(nan=math.inf).min()
        self.history[place] = torch.tensor(found, dtype=torch.float64)
        if found[2] < best:
            for number, parameter in enumerate(self.own):
                getattr(self, f"best_{number}").copy_(parameter)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the best weights."""
        for number, parameter in enumerate(self.own):
            parameter.copy_(getattr(self, f"best_{number}"))

    def evaluations(self) -> list[dict[str, float]]:
        """What the evaluations found."""
        names = ("step", "pairs", "loss", "agreement")
        rows = [row for row in self.history.tolist() if not math.isnan(row[0])]
        return [dict(zip(names, row, strict=True)) | {"step": int(row[0]), "pairs": int(row[1])} for row in rows]


def losses(model: "PreTrainedModel", texts: Sequence[Encoded], pairs: Sequence[Pair], settings: Training):
    """The loss of every pair [pairs], and the difference of scores [pairs]; a text in several pairs is read once."""
    used = list(dict.fromkeys(i for pair in pairs for i in pair[:2]))
    place = {i: number for number, i in enumerate(used)}
    with autocast(settings.device, settings.precision):
        found = scores_of(model, [texts[i] for i in used], tokens=settings.batch_tokens)
    first, second = (torch.tensor([place[pair[side]] for pair in pairs], device=found.device) for side in (0, 1))
    difference = found[second] - found[first]
    wanted = torch.tensor([pair.preference for pair in pairs], device=found.device)
    return binary_cross_entropy_with_logits(difference, wanted, reduction="none"), difference


def evaluate(
    model: "PreTrainedModel", texts: Sequence[Encoded], pairs: Sequence[Pair], settings: Training
) -> tuple[float, float]:
    """The mean loss of pairs, and the percentage whose winner is found; a tie of either counts one half."""
    model.eval()
    with torch.inference_mode():
        loss, difference = losses(model, texts, pairs, settings)
    model.train()
    signs = torch.tensor([pair.preference - 0.5 for pair in pairs]).sign() * difference.float().cpu().sign()
    agrees = (0.5 + 0.5 * signs).tolist()
    return loss.double().mean().item(), 100 * sum(agrees) / len(agrees)


def train(
    model: "PreTrainedModel",
    texts: Sequence[Encoded],
    pairs: Sequence[Pair],
    clusters: Sequence[str],
    validation: Sequence[Pair],
    settings: Training,
    *,
    checkpoints: Checkpoints | None = None,
    log: Callable[[object], None] = lambda line: None,
) -> tuple[list[StepLog], list[dict[str, float]]]:
    """Train the weights of ``model`` that are not frozen, in place, and keep those with the lowest validation loss.

    ``pairs`` are of ``texts``; ``clusters`` tell which pairs are of the same instruction. With ``checkpoints``, it
    resumes from the last one, and on SIGTERM it writes one and stops. Returns the log of every step, and of every
    evaluation. Raises NonFiniteLoss and Interrupted.
    """
    model.to(settings.device).train()
    steps_planned = plan(clusters, settings)
    moments = {round(len(steps_planned) * i / settings.evaluations): i - 1 for i in range(1, settings.evaluations + 1)}
    own = Trained(model, settings.evaluations)
    optimizer = torch.optim.AdamW(own.own, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = checkpoints.resume(own, optimizer) if checkpoints else []
    before, started = steps[-1].seconds if steps else 0.0, time.monotonic()
    seen = sum(len(group) for step in steps_planned[: len(steps)] for group in step)
    with noticing_sigterm() if checkpoints else nullcontext(lambda: False) as sigterm_came:
        for number, groups in list(enumerate(steps_planned))[len(steps) :]:
            torch.manual_seed(random.Random(f"dropout/{settings.seed}/{number}").getrandbits(63))
            shape = {"steps": len(steps_planned), "warmup": settings.warmup}
            rate = settings.learning_rate * learning_rate_factor("cosine", number, **shape)
            optimizer.param_groups[0]["lr"] = rate
            count = sum(map(len, groups))
            loss = sum(add_gradient(model, texts, [pairs[i] for i in group], count, settings) for group in groups)
            if not math.isfinite(loss):
                raise NonFiniteLoss(step=number, learning_rate=rate, loss=loss)
            torch.nn.utils.clip_grad_norm_(own.own, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += count
            used = {i for group in groups for place in group for i in pairs[place][:2]}
            tokens = (steps[-1].tokens if steps else 0) + sum(len(texts[i].ids) for i in used)
            passed = before + time.monotonic() - started
            steps.append(StepLog(number + 1, len(steps_planned), loss, rate, tokens, passed))
            log(steps[-1])
            if number + 1 in moments:
                found = evaluate(model, texts, validation, settings)
                own.keep(moments[number + 1], (number + 1, seen, *found))
                log(f"validation after {seen:,} pairs: loss {found[0]:.4f}, agreement {found[1]:.1f} %")
            stop = sigterm_came()
            if checkpoints and len(steps) < len(steps_planned) and (stop or len(steps) % checkpoints.every == 0):
                path = checkpoints.save(own, optimizer, steps)
                if stop:
                    raise Interrupted(step=len(steps), steps=len(steps_planned), folder=path)
    own.restore()
    model.eval()
    return steps, own.evaluations()


def add_gradient(
    model: "PreTrainedModel", texts: Sequence[Encoded], pairs: Sequence[Pair], count: int, settings: Training
) -> float:
    """Add a group's gradient to that of a step of ``count`` pairs; returns the group's part of the mean loss."""
    loss = losses(model, texts, pairs, settings)[0].sum() / count
    loss.backward()
    return loss.item()
