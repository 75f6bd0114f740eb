"""Log-likelihoods of given texts: the kernel of the loss, response ranking, drift. Nothing is generated here."""
