"""Contestants in ranking and win rates: this project, the authors' way, lm-evaluation-harness, alpaca-eval."""

from types import SimpleNamespace
from typing import Any

import torch
from loads import DEVICE, DTYPE, PAD, Work, frozen_of, judgements, long_rows, model_of, ranking_load, tokenizer_of


def total_of(logprobs: list[float], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "pairs": len(logprobs),
        "logprob": round(sum(logprobs) / len(logprobs), 1 if dtype == torch.float32 else -1),
    }


def ours_ranking(sizes: SimpleNamespace, name: str) -> Work:
    from implicit.scoring.rank import score_responses

    model = frozen_of(sizes, name)
    pairs = ranking_load(sizes)

    def work() -> dict[str, Any]:
        scores = score_responses(model, pairs, pad=PAD, batch_tokens=sizes.ranking_batch, device=DEVICE)
        return total_of([score.logprob for score in scores], model.dtype)

    return work


def authors_ranking(sizes: SimpleNamespace, name: str) -> Work:
    """One pair at a time, with the logits of all positions."""
    model = frozen_of(sizes, name)
    pairs = ranking_load(sizes)

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        found = []
        for prompt, response in pairs:
            logits = model(torch.tensor([[*prompt, *response]], device=DEVICE)).logits[0].float().log_softmax(dim=-1)
            target = torch.tensor(response, device=DEVICE)
            found.append(logits[len(prompt) - 1 : -1].gather(1, target[:, None]).sum().item())
        return total_of(found, model.dtype)

    return work


def harness_ranking(sizes: SimpleNamespace, name: str, batch: int) -> Work:
    """lm-evaluation-harness's `loglikelihood`, given the tokens of the same pairs."""
    from lm_eval.models.huggingface import HFLM

    model = frozen_of(sizes, name)
    pairs = ranking_load(sizes)
    judge = HFLM(pretrained=model, tokenizer=tokenizer_of(sizes.vocabulary), batch_size=batch, max_length=2048)
    requests = [((str(i), ""), prompt, response) for i, (prompt, response) in enumerate(pairs)]

    def work() -> dict[str, Any]:
        found = judge._loglikelihood_tokens(requests, disable_tqdm=True)
        return total_of([logprob for logprob, _ in found], model.dtype)

    return work


def memory_of_ranking(sizes: SimpleNamespace, vocabulary: int, length: int, how: str) -> Work:
    """A batch of pairs of one length; ``plain``: the model's own logits, for all positions at once."""
    from implicit.scoring.rank import score_responses

    sizes.vocabulary = vocabulary
    model, rows = model_of(sizes, "memory").to(DTYPE).eval(), long_rows(sizes, length)
    pairs = [(row.ids[: row.trained.index(True)], row.ids[row.trained.index(True) :]) for row in rows]

    @torch.inference_mode()
    def plain() -> dict[str, Any]:
        ids = torch.tensor([[*prompt, *response] for prompt, response in pairs], device=DEVICE)
        model(ids).logits.float().log_softmax(dim=-1)[:, :-1].gather(2, ids[:, 1:, None])
        return {}

    def work() -> dict[str, Any]:
        score_responses(model, pairs, pad=PAD, batch_tokens=sizes.micro_batch, device=DEVICE)
        return {}

    return plain if how == "plain" else work


def ours_win_rate(sizes: SimpleNamespace) -> Work:
    from implicit.judging.win_rates import win_rates

    rows = judgements(sizes)

    def work() -> dict[str, Any]:
        return {"n": win_rates(rows, bootstrap=sizes.draws, seed=0)["n"]}

    return work


def alpaca_eval_win_rate(sizes: SimpleNamespace) -> Work:
    """alpaca-eval's own length-controlled win rate, once for the rows and once for each bootstrap draw."""
    import numpy as np
    import pandas as pd
    from alpaca_eval.metrics import get_length_controlled_winrate

    from implicit.judging.win_rates import MINIMAL, length_table

    frame = pd.DataFrame(judgements(sizes))
    draws = np.random.default_rng(0).integers(len(frame), size=(sizes.draws, len(frame)))

    def work() -> dict[str, Any]:
        with length_table(None, len(frame)):
            for draw in [np.arange(len(frame)), *draws]:
                drawn = frame.iloc[draw].reset_index(drop=True).assign(index=range(len(frame)))
                get_length_controlled_winrate(
                    drawn, glm_name=MINIMAL, save_weights_dir=None, is_warn_extreme_changes=False
                )
        return {"n": len(frame)}

    return work
