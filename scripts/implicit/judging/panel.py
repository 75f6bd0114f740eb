"""A panel: several judges compare the same pairs, and their mean preference counts."""

from collections.abc import Sequence

import numpy as np

from implicit.judging.judge import Judgements


def mean_judgements(judged: Sequence[Judgements]) -> Judgements:
    """The members' judgements of the same pairs as one: the means of preferences, the lowest label shares.

    Those for each order are kept if every member has them.
    """
    rows = zip(*(one.label_shares for one in judged), strict=True)
    return Judgements(
        preferences=np.mean([one.preferences for one in judged], axis=0).tolist(),
        opponent_first=_mean([one.opponent_first for one in judged]),
        model_first=_mean([one.model_first for one in judged]),
        protected=max(one.protected for one in judged),
        # The mean of the members' biases is the bias of their mean: it is linear in the preferences.
        position_bias=_mean_of([one.position_bias for one in judged]),
        label_shares=[min((share for share in row if share is not None), default=None) for row in rows],
    )


def _mean(columns: Sequence[Sequence[float] | None]) -> list[float] | None:
    known = [column for column in columns if column is not None]
    return np.mean(known, axis=0).tolist() if len(known) == len(columns) else None


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def disagreement(judged: Sequence[Judgements]) -> float:
    """The share of pairs in which one member prefers one output, and another member the other."""
    signs = np.sign(np.array([one.preferences for one in judged]) - 1.5)
    return float(((signs > 0).any(axis=0) & (signs < 0).any(axis=0)).mean())
