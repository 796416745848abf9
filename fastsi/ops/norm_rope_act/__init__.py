"""What stands between the matrix products of a layer: RMSNorm, RoPE, gated activation."""
