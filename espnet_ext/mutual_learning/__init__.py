"""Several recognisers that train together and mimic each other (Masumura et al. 2021)."""
