"""Evaluation's pictures: what the models are asked for, drawing it, and the folder that keeps the pictures."""
