"""Faults on purpose, each followed by the question whether the result is the same: ``make torture``.

Not part of the tests: these take minutes. Whatever a campaign finds gets a test of its own there.
"""
