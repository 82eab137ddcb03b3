"""Notebook 2: the maps of every epoch as tables, what the paper claims of them as rules, and the charts of both."""
