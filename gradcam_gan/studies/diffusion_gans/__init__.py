"""Notebook 4: DCGAN beside the models of the poster's follow-up (P2, P3).

Their scores (``tables``), what their Ds saw and what their Gs make (``pictures``), the ``charts`` and the ``rules``.
All models are trained on the same images, as many of them, and get the same scores.
"""
