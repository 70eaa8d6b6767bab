"""Text, tokenizers and prompts. Everything from outside comes through `datasets`."""
