"""Programs that torchrun starts by their path, in a folder of their own.

Python puts a program's folder first on its path, and next to this one `torch.py` is not torch.
"""
