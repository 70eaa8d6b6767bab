"""Models, tokenizers' files and adapters of Hugging Face, in and out."""
