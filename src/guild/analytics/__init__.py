"""What the records say about training: which file helped, how far the weights went, what is still answered wrong. (specs/guild.md 2.9)

No model is run here: everything comes from the ledger, the evaluations, the runs' metrics and the weights on disk. What nobody measured
is `no data` or null, never zero and never healthy.

| Module | What |
|---|---|
| `impact`, `impact_score`, `impact_summary` | loss and accuracy before and after each training file |
| `weights`, `drift`, `stability` | checkpoints read tensor by tensor: distance from the base model, exploding and vanishing weights |
| `regression`, `forgetting` | validation loss from record to record; abilities that got worse |
| `calibration`, `mining`, `corrections`, `testing` | what evaluations say, problem by problem |
| `trends`, `cycles`, `overview` | levels over time, file by file, everything at a glance |
| `sources`, `documents`, `reports` | what is read, where documents lie, and the reports by name |
"""
