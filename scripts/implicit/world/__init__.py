"""A synthetic world, small enough that a base model can learn it on a laptop in minutes.

``facts`` says what is true in the world, ``kinds`` what can be requested of it and how well a text
fulfils a request, ``corpus`` what a base model reads in pre-training, ``sets`` which conversations
and evaluation sets are drawn from it. Everything follows from one integer, the world's seed.
"""
