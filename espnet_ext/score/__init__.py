"""Error rates and alignments. Starts without torch: scoring takes a second, importing torch takes several."""
