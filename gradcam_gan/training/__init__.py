"""From a configuration to a run directory: objective, loop, checkpoints."""
