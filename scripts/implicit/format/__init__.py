"""From conversations to tokens: chat format, response mask, turns and context length. Nothing is trained here."""
