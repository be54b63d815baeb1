"""Everything that imports tvm: lowering, programs, devices, tuning and deployment."""
