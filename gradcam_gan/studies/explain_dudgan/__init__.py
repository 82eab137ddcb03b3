"""Notebook 5: explanations of the follow-up's models (P3).

D of what it saw at several times, D beside C, D told each class, and the models' D by the measures of notebook 2: as
``panels`` of maps, as ``tables``, and as ``charts`` of these.
"""
