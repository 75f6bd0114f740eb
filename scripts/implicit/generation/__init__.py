"""Generation of responses: greedy decoding, its key-value cache, the rule adapter, vLLM."""
