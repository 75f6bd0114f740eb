"""What a script does around its computation: claim, ledger, record, messages. None of it affects results."""
