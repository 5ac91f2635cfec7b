"""What methods share: the attention/CTC recogniser and its padding-exact parts."""
