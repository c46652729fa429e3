"""What cells are made of: operations, batch normalization, initial weights, search cells."""
