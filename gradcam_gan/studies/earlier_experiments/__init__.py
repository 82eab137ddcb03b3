"""Notebook 8: the group's earlier work, which the poster names (claims P5 and P6).

Grad-CAM of a regression network (``regression``), on properties of a digit that its pixels determine (``targets``); and
a classifier trained on digits with their heatmap added (``added_heatmaps``). Both need small networks of digits
(``digit_networks``). ``rules`` decides; ``tables`` keeps what was measured.
"""
