"""The steps and the loop of a search, a random search and a retraining."""
