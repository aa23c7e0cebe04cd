"""What a recipe's run would be, worked out of the recipe alone."""
