"""Training recipes, each a package: run `python -m recipes.NAME.train` from the repository root."""
