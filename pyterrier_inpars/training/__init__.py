"""Training of rerankers: options, recipes, losses, the trainer and its provenance."""
