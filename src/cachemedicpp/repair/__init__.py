"""What mends a damaged cache: operators of families A to D, their forms inside attention, and the heuristics they are compared with."""
