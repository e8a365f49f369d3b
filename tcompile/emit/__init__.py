"""Files of a build directory made from a design: Verilog, memories, benches, what the host needs."""
