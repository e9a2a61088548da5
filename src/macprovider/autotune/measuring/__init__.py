"""One measured request, what several say together, and which cell they make the best."""
