"""The routed update as Triton kernels for a GPU; experimental, and off unless asked for.

`retrieve` scores every adapter and keeps each part's best; `project` merges the parts, projects
and scores the candidates; `apply` chooses among them and adds what was chosen. That is three
launches a module, and a fourth, `project_all`, where so many tokens share so few adapters that one
matrix product is less work. Sizes follow from shapes alone: nothing waits for the device, and a
CUDA graph can hold them. Plans are numbers in a table on the device, and the tokens of one batch
may go by different ones. All factors of a module's adapters lie on the device.

The kernels know what the compiled operator knows: LAG, adaptive or not, with every score, floor
and mask, and Arrow, up to MOST_CANDIDATES. The rest, float64 and gradients are computed in PyTorch,
by the same definitions. What is chosen is what float32 chooses, ties included; two scores must lie
two tolerances apart for their order to be certain, one for each of two stages.

No GPU has run them yet: Triton's interpreter tests them against the reference, and its compiler
builds them for Hopper processors.
"""
