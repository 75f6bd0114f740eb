"""Contestants in generation: this project, transformers in two ways, the paper's listing."""

import time
from types import SimpleNamespace
from typing import Any

import torch
from loads import DEVICE, EOS, PAD, Stops, Work, frozen_of, generation_load, rule_adapter


def ours_generation(sizes: SimpleNamespace, name: str, *, rules: bool = False) -> Work:
    from implicit.generation.generate import Limits, generate

    model = frozen_of(sizes, name)
    prompts, lengths = generation_load(sizes)

    def work() -> dict[str, Any]:
        adapter = Stops(lengths, rule_adapter(model.config.vocab_size) if rules else None)
        found = generate(
            model, prompts, Limits(EOS, PAD, sizes.new_tokens + 1, 2048),
            batch_size=sizes.generation_batch, adapter=adapter,
            adapter_prompts=[[place, *prompt] for place, prompt in enumerate(prompts)],
        )  # fmt: skip
        return {"lengths": sum(len(response.ids) for response in found)}

    return work


def transformers_generation(sizes: SimpleNamespace, name: str, batch: int) -> Work:
    """transformers' own `generate`, with prompts in their given order.

    With batch size 1, which is slow, only every eighth prompt is answered, and the seconds are scaled up by the number
    of tokens.
    """
    from transformers import LogitsProcessor

    model = frozen_of(sizes, name)
    prompts, lengths = generation_load(sizes)

    class StopsHere(LogitsProcessor):
        def __init__(self, own: list[int], width: int) -> None:
            self.own, self.width = torch.tensor(own, device=DEVICE), width

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores[:, EOS] = torch.where(self.own <= input_ids.shape[1] - self.width, torch.inf, -torch.inf)
            return scores

    def work() -> dict[str, Any]:
        generated, everything, started = 0, sum(lengths), time.perf_counter()
        for start in range(0, len(prompts), 8 if batch == 1 else batch):
            rows, own = prompts[start : start + batch], lengths[start : start + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
            found = model.generate(
                ids, attention_mask=mask, max_new_tokens=sizes.new_tokens + 1, do_sample=False, eos_token_id=EOS,
                pad_token_id=PAD, logits_processor=[StopsHere(own, width)],
            )[:, width:]  # fmt: skip
            ended = (found == EOS).int().argmax(dim=1)
            generated += int(ended.sum())
        seconds = (time.perf_counter() - started) * everything / generated
        return {"seconds": seconds, "lengths": everything if batch == 1 else generated}

    return work


def continuous_generation(sizes: SimpleNamespace, name: str) -> Work:
    """transformers' continuous batching, on which `generate_batch` is based: each request has its own limit."""
    from transformers import GenerationConfig

    model = frozen_of(sizes, name)
    prompts, lengths = generation_load(sizes)
    config = GenerationConfig(max_new_tokens=sizes.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=PAD)

    def work() -> dict[str, Any]:
        generated = 0
        with model.continuous_batching_context_manager(generation_config=config, block=True, timeout=60) as manager:
            for prompt, length in zip(prompts, lengths, strict=True):
                manager.add_request(prompt, max_new_tokens=length)
            waiting = len(prompts)
            while waiting:
                result = manager.get_result(timeout=60)
                if result is None:
                    raise RuntimeError(f"{waiting} of {len(prompts)} requests were not answered")
                if result.is_finished():
                    generated, waiting = generated + len(result.generated_tokens), waiting - 1
        return {"lengths": generated}

    return work


def listing_generation(sizes: SimpleNamespace, name: str) -> Work:
    """The paper's listing: one prompt at a time, no cache, a loop over the generated tokens.

    Only a few prompts are answered, and the seconds are scaled up by the number of tokens.
    """
    model = frozen_of(sizes, name)
    prompts, lengths = generation_load(sizes)
    some = range(0, len(prompts), len(prompts) // sizes.listing_prompts)
    uniform = rule_adapter(model.config.vocab_size).uniform.tolist()
    named = [i for i, score in enumerate(uniform) if score]

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        generated, everything, started = 0, sum(lengths), time.perf_counter()
        for i in some:
            ids, response = list(prompts[i]), []
            for t in range(lengths[i]):
                base = model(torch.tensor([ids], device=DEVICE), use_cache=False).logits[0, -1].log_softmax(dim=-1)
                scores = torch.zeros_like(base)
                for token in named:
                    scores[token] += uniform[token]
                if 0 < t < 250:
                    scores[EOS] += 15.0 * t / 250
                for token in set(response):
                    scores[token] += -1.5
                chosen = base + scores.log_softmax(dim=-1)
                chosen[EOS] = -torch.inf
                token = int(chosen.argmax())
                ids.append(token)
                response.append(token)
            generated += len(response)
        return {"seconds": (time.perf_counter() - started) * everything / generated, "lengths": everything}

    return work
