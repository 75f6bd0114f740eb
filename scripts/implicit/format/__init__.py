"""From conversations to tokens: the chat format, the response mask, turns and the length of a context. No training."""
