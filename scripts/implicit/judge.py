"""Head-to-head judging through alpaca-eval, with guards where it fails in silence, and win rates with errors.

alpaca-eval loads its length table from a hub whatever the metric; here it gets a table of zeros instead, which
`length_controlled_minimal` does not read. No other variant may be computed on prompts that are not AlpacaEval's.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import alpaca_eval
import numpy as np
import pandas as pd
import yaml
from alpaca_eval.metrics import get_length_controlled_winrate, get_winrate, glm_winrate

from implicit.oracle import answer_prompts

METRIC = "length_controlled_minimal"
MARK = "\x1e"  # between the parts of the oracle's prompt: no text holds it, see `protect`
PREFERENCES = {"output_1": 1.0, "output_2": 2.0, "tie": 1.5}


class IncompleteJudging(RuntimeError):
    """Some comparisons have no judgement: win rates on what is left would be of another set."""


def protect(text: str) -> str:
    """A text as it may stand in a judge's prompt: no record separator, no placeholder of the template.

    alpaca-eval fills its template by one replacement after the other, so that an output that holds the
    text ``{output_2}`` would be mixed with the other output.
    """
    text = text.replace(MARK, " ")
    for name in ("instruction", "output_1", "output_2"):
        text = text.replace("{" + name + "}", "{ " + name + " }")
    return text


def judge_with_oracle(
    opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], *, name: str, seed: int
) -> list[float]:
    """Judge ``model``'s outputs against ``opponent``'s: a preference for each, 1 (opponent) to 2 (model), 1.5 a tie.

    Rows hold ``id``, ``instruction``, ``output`` and ``quality``, both sides in the same order. The order in
    which a pair is shown is drawn by alpaca-eval from ``seed`` and the instruction.

    Raises ValueError when the sides do not match, IncompleteJudging when a judgement is missing.
    """
    check_pairs(opponent, model)
    qualities = {
        (protect(row["instruction"]), protect(row["output"])): row["quality"]
        for side in (opponent, model)
        for row in side
    }
    template = MARK.join(("{instruction}", "{output_1}", "{output_2}"))
    return annotate(
        opponent,
        model,
        name=name,
        seed=seed,
        template=template,
        complete=partial(answer_prompts, qualities=qualities, mark=MARK),
        parse=lambda completion: [PREFERENCES.get(completion)],
    )


def check_pairs(opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError unless both sides respond to the same instructions, in order, each once, each with a text."""
    if [row["id"] for row in opponent] != [row["id"] for row in model]:
        raise ValueError("the two sides of a comparison must hold the same instructions in the same order")
    if len({row["instruction"] for row in model}) != len(model):
        raise ValueError("an instruction occurs twice: judgements are matched by instruction")
    missing = [row["id"] for side in (opponent, model) for row in side if not isinstance(row["output"], str)]
    if missing:
        raise ValueError(f"rows without an output: {missing}")


def annotate(
    opponent: Sequence[dict[str, Any]],
    model: Sequence[dict[str, Any]],
    *,
    name: str,
    seed: int,
    template: str,
    complete: Callable[..., dict[str, Any]],
    parse: Callable[[str], list[float | None]],
) -> list[float]:
    """Run alpaca-eval's own annotator with a judge given as functions; one preference per row, in order."""
    sides = [
        [{"instruction": protect(row["instruction"]), "output": protect(row["output"])} for row in side]
        for side in (opponent, model)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / name
        config.mkdir()
        (config / "prompt.txt").write_text(template, encoding="utf-8")
        settings = {name: {"prompt_template": f"{name}/prompt.txt", "batch_size": 1}}
        (config / "configs.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        annotator = alpaca_eval.annotators.PairwiseAnnotator(
            annotators_config=name,
            base_dir=folder,
            caching_path=Path(folder) / "cache.json",
            seed=seed,
            fn_completions=complete,
            fn_completion_parser=parse,
        )
        judged = annotator.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1])
    found = {row["instruction"]: row["preference"] for row in judged}
    preferences = [found.get(row["instruction"]) for row in sides[1]]
    without = [row["id"] for row, p in zip(model, preferences, strict=True) if p is None or np.isnan(p)]
    if without or len(judged) != len(model):
        raise IncompleteJudging(
            f"{len(without)} of {len(model)} comparisons by judge {name!r} have no judgement: rows {without[:20]}"
        )
    return [float(preference) for preference in preferences]


def win_rates(rows: Sequence[dict[str, Any]], *, bootstrap: int, seed: int) -> dict[str, Any]:
    """Raw and length-controlled win rates in percent with bootstrap standard errors, from rows of judgements.

    The bootstrap draws instructions with replacement (paired: a pair stays together) and refits the length
    model on each draw, since alpaca-eval's own ``lc_standard_error`` is no standard error of that figure.
    Where the length model cannot be fitted, its figures are None and ``lc_note`` says why.
    """
    frame = pd.DataFrame(rows)
    preferences = frame["preference"].to_numpy()
    metrics = get_winrate(frame)
    draws = np.random.default_rng(seed).integers(len(frame), size=(bootstrap, len(frame)))
    result: dict[str, Any] = {
        "n": len(frame),
        "wins": int((preferences > 1.5).sum()),
        "losses": int((preferences < 1.5).sum()),
        "ties": int((preferences == 1.5).sum()),
        "win_rate": float(metrics["win_rate"]),
        "win_rate_error": float(((preferences[draws] - 1).mean(axis=1) * 100).std(ddof=1)),
        "metric": METRIC,
        "length_1": float(frame["output_1"].str.len().mean()),
        "length_2": float(frame["output_2"].str.len().mean()),
    }
    return result | _length_controlled(frame, draws)


def _length_controlled(frame: pd.DataFrame, draws: np.ndarray) -> dict[str, Any]:
    difference = frame["output_1"].str.len() - frame["output_2"].str.len()
    if len(frame) < 10 or difference.nunique() < 2:
        note = "too few rows" if len(frame) < 10 else "all pairs differ by the same length"
        return {"lc_win_rate": None, "lc_win_rate_error": None, "lc_note": f"not defined: {note}"}
    rows = frame[["preference", "output_1", "output_2", "generator_1", "generator_2"]].assign(index=range(len(frame)))
    with tempfile.TemporaryDirectory() as folder, without_hub(Path(folder), len(rows)):
        measured = get_length_controlled_winrate(
            rows.copy(), glm_name=METRIC, save_weights_dir=None, is_warn_extreme_changes=False
        )
        features, neutral, _ = glm_winrate._get_featurized_data(
            rows, formula=glm_winrate.GLM_INFO[METRIC]["formula"], regularize_to_baseline_lambda=None
        )
    controlled = float(measured["length_controlled_winrate"])
    if abs(controlled - 50) < 1e-9 and abs(measured["win_rate"] - 50) > 1e-9:
        note = "the length model's L1 penalty has set its intercept to 0, and it says 50 whatever the outcomes"
        return {"lc_win_rate": None, "lc_win_rate_error": None, "lc_note": f"not defined: {note}"}
    refits = []
    for draw in draws:
        fitted = glm_winrate.fit_LogisticRegressionCV(
            features.iloc[draw], "preference", is_ytrue_proba=True, n_splits=0
        )
        refits.append(fitted.predict_proba(neutral.iloc[:1])[0, 1] * 100)
    return {
        "lc_win_rate": controlled,
        "lc_win_rate_error": float(np.std(refits, ddof=1)),
        "lc_note": None,
    }


class without_hub:  # noqa: N801 (used as a function)
    """Give alpaca-eval's length model a table of zeros, as long as ours, in place of the download from the hub."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.table = folder / "no_difficulty.csv"
        lines = [f"0.5,{i},0.0,0.0,False,none" for i in range(rows)]
        header = "preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"
        self.table.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    def __enter__(self) -> None:
        self.download = glm_winrate.hf_hub_download
        glm_winrate.hf_hub_download = lambda *args, **kwargs: str(self.table)

    def __exit__(self, *error: object) -> None:
        glm_winrate.hf_hub_download = self.download
