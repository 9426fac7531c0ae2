"""Training data: rows read from files and checked, tokenised examples, general questions."""
