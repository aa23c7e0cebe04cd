"""CCIP: the encoder's interface, the score of a character's identity, its statistics and plots."""
