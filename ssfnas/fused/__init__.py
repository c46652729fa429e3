"""The fast cell: one autograd function that computes all candidates of a cell together."""
