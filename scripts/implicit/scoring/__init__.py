"""Log-likelihoods of given texts: the loss's kernel, response ranking, drift. Nothing is generated here."""
