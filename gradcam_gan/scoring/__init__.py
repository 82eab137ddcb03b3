"""How good a generator is: the digit evaluator, and the scores in its features."""
