"""The verl recipe: each file is one of verl 0.9.1's extension points. Nothing outside this package knows verl."""
