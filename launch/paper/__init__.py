"""The tables of arXiv 2402.13598, each from one command."""
