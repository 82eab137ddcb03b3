"""How fast training and explaining are, as ratios measured in one run: ``python -m benchmarks``."""
