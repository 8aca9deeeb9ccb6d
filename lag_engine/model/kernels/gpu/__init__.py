"""The routed update as three Triton kernels for a GPU; experimental, and off unless asked for.

`retrieve` scores every adapter and keeps each part's best; `project` merges the parts, projects
and scores the candidates; `apply` chooses among them and adds what was chosen. Three launches a
module, of sizes that follow from shapes alone: nothing waits for the device, and a CUDA graph can
hold them. Plans are numbers in a table on the device, and the tokens of one batch may go by
different ones. A library's factors lie on the device in whole.

They know what the compiled operator knows: LAG, adaptive or not, with every score, floor and mask,
and Arrow, up to MOST_CANDIDATES. The rest, float64 and gradients are computed in PyTorch, by the
same definitions. No GPU has run them yet: Triton's interpreter tests them against the reference,
and its compiler builds them for Hopper.
"""
