"""Two stages: the largest model that fits, then the best settings for it. (specs/autotune.md)

`run` reads like the specification's workflow; `plan` says what will be tried, `stages` tries it, `trial` measures one candidate
in a child process (`provider`, `request`), `gate` and `choose` judge, `database` remembers, `recommendation` tells.
"""
