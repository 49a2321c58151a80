"""What runs from the command line: the demos, their plot, the audit of GPU kernels."""
