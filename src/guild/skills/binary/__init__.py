"""Binary arithmetic: expressions over circled digits, in four forms and seven auxiliary tasks. (specs/guild.md 6.1)

A problem is an expression tree with a form and perhaps a symbol key. Prompt and reply are rendered from the tree by pure functions;
`selfcheck` reads the texts back with a parser of its own and recomputes every line.
"""
