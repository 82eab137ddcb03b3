"""Notebook 6: which explanation of a discriminator can be trusted?

First a discriminator whose evidence is known: a marker planted in every real training image (``planted``). Then the
study's own networks, whose evidence is not known: does the score follow what a map calls important (``measured``), and
can a network learn without it (``retrained``)? One table has a row a method and layer, and ``rule`` chooses from it.
"""
