"""Named sets of values, one YAML file each: the command it is for, then the command's fields."""
