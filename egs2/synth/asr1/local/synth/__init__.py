"""The embedded corpus: sentences from a grammar, spoken by espeak-ng, put into rooms and noise."""
