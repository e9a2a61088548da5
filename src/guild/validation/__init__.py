"""Checks of training data before a step is made with it. (specs/guild.md 5.1, 5.2, 5.4)

`validate.py` is the door: `validate_file` for the data, `check_job` for a job and its schema. One pass over the file finds everything:
`scan.py` looks at one range of it, `workers.py` at many ranges at once, and `merging.py` puts what they found in order.
"""
