"""What a hero earned, by plain arithmetic over the records of the store. (specs/guild.md 2.3.5)

`results` turns a judged answer into experience, `levels` experience into levels: the only calculators of both. `effects` are timed
modifiers; `hero_state` folds a campaign's evaluations and checkpoints into `status/hero_state.json`. `templates` are quests as prompt
templates, `worth` says what an answer to one earns, `incidents` what went wrong and what became of it, `runs` all runs of the guild by
type, `consistency` rules over the records.
"""
