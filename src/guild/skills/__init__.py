"""Skills: families of problems with levels, each with a generator, a judge and a server."""
