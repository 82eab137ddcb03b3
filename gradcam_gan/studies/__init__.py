"""What the notebooks ask: one module a notebook, of the notebook's own name, and what they share."""
