"""Small disturbances of a stored cache and the drift of the next token they cause."""
