"""Optimizers of LoRA: each takes its step for all neighbours in a stack at once, with every trial's own numbers.

A step is the same few operations for any number of trials: what is one number a trial (its learning rate, Prodigy's
estimate) is a column of the stack, and sums over a trial's weights are sums over segments of it. Formulas are those of
the packages that people know (torch, lion-pytorch, prodigyopt, schedulefree).
"""
