"""Names, options and traits of what can be chosen; none of it imports torch.

One module a kind: the options in dataclasses, then the registry with an entry for each component.
"""
