"""What the backends for GPUs share: how a program is cut up, the sweeps of a call, and their buffers."""
