"""Heroes (model profiles), campaigns (training runs of one hero), and the configuration that really reaches training.

`heroes` reads the profiles. `campaign` is the document, `store` makes, lists and archives campaigns, `activation` chooses one, `lineage`
follows parents. `config_schema` says what may be set, `effective_config` merges the layers, `config_lock` guards what must not change,
`config_file` edits `config.json`. `cli` is the command.
"""
