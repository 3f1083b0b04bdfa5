"""Training networks on images: recipes, batches, optimisers, one network or several at once."""
