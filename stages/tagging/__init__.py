"""Models that describe pictures, where no database does: taggers, scorers and readers of text."""
