"""How good a checkpoint is: validation sets, one judge, those who answer, the runner of waiting evaluations, passives, baselines.

`answers` judges, `sets` holds the problems, `answerers` (`local`, `api`) asks a model, `measuring` puts them together; `due` queues what
a save calls for and `runner` works it off. Training libraries are imported in functions of `local` and `scoring` alone.
(specs/guild.md 2.1.9, 4.7)
"""
