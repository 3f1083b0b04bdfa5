"""What cells take, memory and time: measured, estimated on fake tensors, counted, and whether it fits."""
