"""Transfer of a pre-trained language model's embeddings into the recogniser (Kubo et al. 2022)."""
