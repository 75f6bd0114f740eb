"""Win rates, raw and length-controlled, by alpaca-eval's own functions, with bootstrap errors and checks.

alpaca-eval loads its length table from the Hugging Face Hub whatever the metric, and looks up instructions by position.
So `length_controlled_v1` is computed only for AlpacaEval's own 805 instructions in their original order, and
`length_controlled_minimal`, which does not use the table, gets a table of zeros instead.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from alpaca_eval.metrics import get_length_controlled_winrate, get_winrate, glm_winrate
from scipy.special import expit

from implicit.measuring.intervals import draw_clusters
from implicit.measuring.texts import one_line

MINIMAL, VERSION_1 = "length_controlled_minimal", "length_controlled_v1"
ALPACA_EVAL_SIZE = 805
# The `instructions_sha256` of AlpacaEval's instructions, from the annotations of its public leaderboard.
ALPACA_EVAL_SHA256 = "8cfc60a053ec8c37d33efdf4df68e310727d02fe87724d1184d8e371407a0d10"
GAMED_COLUMNS = ("preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "model")
GAMED_HUB = {
    "repo_id": "tatsu-lab/alpaca_eval",
    "filename": "df_gamed.csv",
    "repo_type": "dataset",
    "revision": "2edc6fad8be6b14ea7230aabfd08188da6b8b814",
}
GAMED_SHA256 = "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d"


class MetricError(ValueError):
    """A metric that is not defined for these judgements, or whose inputs are missing."""


def instructions_sha256(instructions: Sequence[str]) -> str:
    """The sha256 of instructions in order, with whitespace normalised, as copies of the set differ in it."""
    digest = hashlib.sha256()
    for instruction in instructions:
        digest.update(one_line(instruction).encode() + b"\0")
    return digest.hexdigest()


def check_alpaca_eval(instructions: Sequence[str], places: Sequence[int | None]) -> None:
    """Raise MetricError unless these are exactly AlpacaEval's instructions, in order, with places 0 to 804."""
    reason = None
    if len(instructions) != ALPACA_EVAL_SIZE:
        reason = f"there are {len(instructions)}"
    elif list(places) != list(range(ALPACA_EVAL_SIZE)):
        reason = "their places (`index`) are not 0 to 804 in order"
    elif instructions_sha256(instructions) != ALPACA_EVAL_SHA256:
        reason = "these differ or are in another order"
    if reason:
        raise MetricError(
            f"judge.metric: {VERSION_1} is only defined for AlpacaEval's {ALPACA_EVAL_SIZE} instructions in their "
            f"original order, but {reason}; use {MINIMAL}"
        )


def find_df_gamed(path: Path | None, *, log: Callable[[str], None] = lambda line: None) -> tuple[Path, str]:
    """The length table that `length_controlled_v1` needs, and its sha256: a local file, or the pinned one from the hub.

    A local file may differ from the pinned one, which ``log`` reports. Raises MetricError if a table does not have the
    right shape or the hub's is not the pinned one, and huggingface_hub's errors if it cannot be downloaded.
    """
    if path is None:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(**GAMED_HUB))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != GAMED_SHA256:
            raise MetricError(f"the downloaded {path} has sha256 {found} instead of {GAMED_SHA256}; delete it")
    else:
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        log(f"{path}: sha256 {found}" + ("" if found == GAMED_SHA256 else f"; the hub's has {GAMED_SHA256}"))
    table = pd.read_csv(path)
    if list(table.columns) != list(GAMED_COLUMNS) or list(table["index"]) != [*range(ALPACA_EVAL_SIZE)] * 2:
        raise MetricError(f"{path} is not AlpacaEval's table of gamed baselines, with two rows for each of 805 places")
    return Path(path), found


def win_rates(
    rows: Sequence[dict[str, Any]], *, bootstrap: int, seed: int, metric: str = MINIMAL, gamed: Path | None = None
) -> dict[str, Any]:
    """Raw and length-controlled win rates in percent with bootstrap standard errors, from rows of judgements.

    The bootstrap draws the rows' clusters with replacement, each with all its instructions (a pair of outputs stays
    together), and refits the length model on each draw, since alpaca-eval's own ``lc_standard_error`` is not the
    standard error of that figure.
    If the length model cannot be fitted, its figures are None and ``lc_note`` says why. ``gamed`` is the table of
    `find_df_gamed`, for `length_controlled_v1`, whose rows must be AlpacaEval's (`check_alpaca_eval`).

    Raises MetricError for rows for which alpaca-eval would silently compute a different figure.
    """
    frame = pd.DataFrame(rows)
    generators = [frame[f"generator_{i}"].unique().tolist() for i in (1, 2)]
    if len(generators[0]) != 1 or len(generators[1]) != 1 or generators[0] == generators[1]:
        raise MetricError(f"each side must have one generator, different from the other's, but they are {generators}")
    if frame["preference"].isna().any():
        raise MetricError(f"{frame['preference'].isna().sum()} of {len(frame)} rows have no preference")
    preferences = frame["preference"].to_numpy()
    metrics = get_winrate(frame)
    drawn = draw_clusters(frame["cluster"].tolist(), draws=bootstrap, rng=np.random.default_rng(seed))
    rates = drawn @ (preferences - 1) / drawn.sum(axis=1) * 100
    result: dict[str, Any] = {
        "n": len(frame),
        "clusters": frame["cluster"].nunique(),
        "wins": int((preferences > 1.5).sum()),
        "losses": int((preferences < 1.5).sum()),
        "ties": int((preferences == 1.5).sum()),
        "win_rate": float(metrics["win_rate"]),
        "win_rate_error": float(rates.std(ddof=1)),
        "metric": metric,
        "length_1": float(frame["output_1"].str.len().mean()),
        "length_2": float(frame["output_2"].str.len().mean()),
    }
    if metrics["n_total"] != len(frame):
        raise MetricError(f"alpaca-eval counts {metrics['n_total']} judgements instead of {len(frame)}")
    return result | _length_controlled(frame, drawn, metric, gamed)


def _length_controlled(frame: pd.DataFrame, drawn: np.ndarray, metric: str, gamed: Path | None) -> dict[str, Any]:
    if metric == VERSION_1 and (gamed is None or len(frame) != ALPACA_EVAL_SIZE):
        raise MetricError(f"{metric} needs its table and {ALPACA_EVAL_SIZE} rows, but there are {len(frame)}")
    difference = frame["output_1"].str.len() - frame["output_2"].str.len()
    if len(frame) < 10 or difference.nunique() < 2:
        note = "too few rows" if len(frame) < 10 else "all pairs differ by the same length"
        return {"lc_win_rate": None, "lc_win_rate_error": None, "lc_note": f"not defined: {note}"}
    rows = frame[["preference", "output_1", "output_2", "generator_1", "generator_2"]].assign(index=range(len(frame)))
    info = glm_winrate.GLM_INFO[metric]
    with length_table(gamed if metric == VERSION_1 else None, len(rows)):
        measured = get_length_controlled_winrate(
            rows.copy(), glm_name=metric, save_weights_dir=None, is_warn_extreme_changes=False
        )
        features, neutral, weights = glm_winrate._get_featurized_data(
            rows, formula=info["formula"], regularize_to_baseline_lambda=info["regularize_to_baseline_lambda"]
        )
    controlled = float(measured["length_controlled_winrate"])
    if abs(controlled - 50) < 1e-9 and abs(measured["win_rate"] - 50) > 1e-9:
        note = "the length model's L1 penalty has set its weights to 0, so it gives 50 whatever the outcomes"
        return {"lc_win_rate": None, "lc_win_rate_error": None, "lc_note": f"not defined: {note}"}
    refitted = refits(features, neutral, weights, drawn)
    return {
        "lc_win_rate": controlled,
        "lc_win_rate_error": float(np.std(refitted, ddof=1)),
        "lc_note": None,
    }


def refits(features: pd.DataFrame, neutral: pd.DataFrame, weights: pd.Series | None, drawn: np.ndarray) -> np.ndarray:
    """The length-controlled win rates in percent of draws of judgements, fitted at alpaca-eval's fixed C: [draws].

    ``features`` (the gamed baselines' rows, then the judgements'), ``neutral`` (only the judgements', at zero length
    difference) and ``weights`` come from `glm_winrate._get_featurized_data`; ``drawn`` [draws, n] is how often each
    judgement is in each draw. The baselines regularise the model's weights, so all of them are in every draw.
    """
    inputs = features.drop(columns="preference").to_numpy(dtype=float)
    at_neutral = neutral[features.columns.drop("preference")].to_numpy(dtype=float)
    before = len(inputs) - len(at_neutral)
    counted = np.concatenate([np.ones((len(drawn), before)), drawn], axis=1)
    counted *= 1.0 if weights is None else weights.to_numpy(dtype=float)
    fitted = fit_logistic(inputs, features["preference"].to_numpy(dtype=float), counted)
    return (drawn * expit(fitted @ at_neutral.T)).sum(axis=1) / drawn.sum(axis=1) * 100


def fit_logistic(
    inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, strength: float = 100.0
) -> np.ndarray:
    """Fit many logistic regressions at once, which differ in their rows' weights: coefficients [fits, features].

    Each minimises, without an intercept, the sum of its coefficients' absolute values plus ``strength`` times the
    weighted log loss, as liblinear does for alpaca-eval. ``inputs`` [rows, features], ``targets`` [rows] probabilities,
    ``weights`` [fits, rows]. Takes proximal Newton steps, halved until the objective falls, until it falls no further.
    """

    def objective(found: np.ndarray) -> np.ndarray:
        score = found @ inputs.T
        losses = np.logaddexp(0.0, score) - targets * score
        return np.abs(found).sum(axis=1) + strength * (weights * losses).sum(axis=1)

    found = np.zeros((len(weights), inputs.shape[1]))
    value = objective(found)
    for _ in range(200):
        predicted = expit(found @ inputs.T)
        gradient = strength * (weights * (predicted - targets)) @ inputs
        curvature = strength * np.einsum("fr,ri,rj->fij", weights * predicted * (1 - predicted), inputs, inputs)
        step = _penalised_step(found, gradient, curvature)
        tried = objective(found + step)
        for _ in range(60):
            worse = ~(tried <= value)
            if not worse.any():
                break
            step[worse] /= 2
            tried = objective(found + step)
        step[~(tried <= value)] = 0.0
        fallen = value - np.minimum(tried, value)
        found, value = found + step, np.minimum(tried, value)
        if (fallen <= 1e-13 * (1 + np.abs(value))).all():
            return found
    raise MetricError("the length model could not be fitted: its objective still decreases after 200 steps")


def _penalised_step(found: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """The steps to the minima of quadratic models plus absolute values: the best over all sign patterns.

    There are two or three coefficients, each negative, zero or positive at the minimum.
    """
    size = found.shape[1]
    ridge = 1e-12 * (1 + np.einsum("fii->f", curvature))  # for collinear features
    linear = np.einsum("fij,fj->fi", curvature, found) - gradient
    best, lowest = found, np.full(len(found), np.inf)
    for signs in product((-1.0, 0.0, 1.0), repeat=size):
        active = [i for i in range(size) if signs[i]]
        candidate = np.zeros_like(found)
        if active:
            matrix = curvature[:, active][:, :, active] + ridge[:, None, None] * np.eye(len(active))
            target = linear[:, active] - np.array(signs)[active]
            candidate[:, active] = np.linalg.solve(matrix, target[..., None])[..., 0]
        step = candidate - found
        value = (gradient * step).sum(axis=1) + np.einsum("fi,fij,fj->f", step, curvature, step) / 2
        value += np.abs(candidate).sum(axis=1)
        best = np.where((value < lowest)[:, None], candidate, best)
        lowest = np.minimum(value, lowest)
    return best - found


@contextmanager
def length_table(path: Path | None, rows: int) -> Iterator[None]:
    """Replace the hub's table for alpaca-eval's length model by a local one, or by one of zeros with ``rows`` rows."""
    download = glm_winrate.hf_hub_download
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder) / "no_difficulty.csv"
            lines = [f"0.5,{i},0.0,0.0,False,none" for i in range(rows)]
            path.write_text("\n".join([",".join(GAMED_COLUMNS), *lines]) + "\n", encoding="utf-8")
        glm_winrate.hf_hub_download = lambda *args, **kwargs: str(path)
        try:
            yield
        finally:
            glm_winrate.hf_hub_download = download
