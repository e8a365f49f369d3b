"""Running a design cycle by cycle: its Verilog in Verilator, its gateware in Amaranth's simulator."""
