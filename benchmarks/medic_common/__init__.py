"""What the studies of damaged KV caches share.

    subject = load_subject("modelwright/tiny-1.5m")                # subjects
    operator = train_operator(subject, damage, Training(seed=1))   # training
    pairs = prefill(subject, ids)                                  # clean keys and values by layer
    logits = tail_logits(subject, tail, damaged(pairs, damage), operator)
    paired_kl(tail_logits(subject, tail, pairs), logits)           # measures: nats by text

A damage is any function of stored keys and values. `train` text trains operators, `validation` chooses settings, `test` is reported.
"""
