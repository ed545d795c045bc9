"""What an evaluation leaves: predictions, the score table and what it means. Every page, table and claim reads these."""
