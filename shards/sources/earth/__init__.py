"""The synthetic Earth, from the place to the pixels.

    place -> terrain -> cover -> optics (S2, Landsat) | radar (S1) | words (captions, tags)

Everything in here is invented: plausible physics at the level of a text book, no measured data.
"""
