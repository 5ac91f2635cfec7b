"""BL-JUST: one encoder under a supervised and a self-supervised loss, penalty-based bilevel descent."""
