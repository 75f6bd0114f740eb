"""A synthetic world, small enough that a base model can learn it on a laptop in minutes.

``facts`` defines what is true in the world, ``kinds`` what can be requested and how well a text
fulfils a request, ``corpus`` what a base model is pre-trained on, ``sets`` which conversations and
evaluation sets are drawn from it. Everything follows from one integer, the world's seed.
"""
