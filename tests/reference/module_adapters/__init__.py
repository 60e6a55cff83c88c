"""How the cases of `modules/reference.py` are called here, one file for each family."""
