"""Training: data, losses, checkpoints and the loop that every stage shares."""
