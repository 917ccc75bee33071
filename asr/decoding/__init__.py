"""A window of features to text: search, filters, prompts, temperature fallback."""
