"""Contestant in generation: llama.cpp's server, as the package xllamacpp brings it.

It was compiled for AVX2, so it uses no more than that where there is more, such as products in bfloat16.
"""

import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from loads import Work, frozen_of, generation_load


def write_gguf(model: Any, path: str, precision: str) -> None:
    """Write a model of Gemma's shape as a GGUF file with its matrices in ``precision``, such as Q8_0."""
    import gguf

    config, kind = model.config, gguf.GGMLQuantizationType[precision]
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>" for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, tensor in model.model.state_dict().items():
        array = tensor.float().numpy()
        if array.ndim == 1:  # the norms' weights, of which transformers keeps the difference from one
            writer.add_tensor(names.get_name(f"model.{name}", (".weight",)), array + 1)
        else:
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(names.get_name(f"model.{name}", (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def server_generation(sizes: SimpleNamespace, name: str, precision: str) -> Work:
    """All prompts at once; each request has its own limit. The best token is taken without any sampler before it."""
    import xllamacpp

    model = frozen_of(sizes, name)
    prompts, lengths = generation_load(sizes)
    params = xllamacpp.CommonParams()
    params.n_parallel = sizes.generation_batch
    longest = max(map(len, prompts)) + sizes.new_tokens
    params.n_ctx = sizes.generation_batch * 256 * math.ceil(longest / 256)  # multiples of 256, else rounded down
    params.n_ctx_checkpoints = params.cache_ram_mib = 0  # nothing is asked twice
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = sizes.threads
    with tempfile.TemporaryDirectory() as folder:
        params.model.path = f"{folder}/model.gguf"
        write_gguf(model, params.model.path, precision)
        server = xllamacpp.Server(params)

    def answer(prompt: list[int], length: int) -> int:
        given = {"n_predict": length, "ignore_eos": True, "cache_prompt": False}
        found = server.handle_completions({"prompt": prompt, "samplers": ["temperature"], "temperature": 0, **given})
        return found["usage"]["completion_tokens"]

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(sizes.generation_batch) as pool:
            return {"lengths": sum(pool.map(answer, prompts, lengths))}

    return work
