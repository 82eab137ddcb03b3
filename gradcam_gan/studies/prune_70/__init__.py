"""Notebook 3: does it help to delete the images that the heatmap covers (claim C6)?

The paper (section 3): where 70 % or more of an image's activation map counts as important, delete the image and train
again. From which value on a map is important it does not say. Here any value above 0 is, at the layer's own resolution,
which leaves no number free; how many images would go under other answers is measured beside it (``tables.rule_grid``).

Which images go is said by the study's own network of a seed; an arm is a short training of that seed without them
(``Study.pairs``). It makes as many iterations as its baseline, so it sees its fewer images more often.

``arms`` are the options of each, ``selection`` says which images they keep, ``rules`` decides; ``tables`` and
``charts`` are the notebook's.
"""
