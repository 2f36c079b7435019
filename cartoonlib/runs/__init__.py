"""Runs: training that is logged, checkpointed, resumed, guarded and spread over processes."""
