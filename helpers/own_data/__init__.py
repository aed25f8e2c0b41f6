"""From a table of texts and labels to decisions: what the command ``how-sure`` does."""
