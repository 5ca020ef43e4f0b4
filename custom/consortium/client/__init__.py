"""A hospital's local training: the trainer, its process and the tensors it keeps."""
