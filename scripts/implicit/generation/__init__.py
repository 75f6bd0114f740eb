"""How a model responds: greedy generation, its key-value cache, the rule adapter, vLLM."""
