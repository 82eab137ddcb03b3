"""How good a generator is: the digit classifier, and the scores in its features."""
