"""The command line: argv to values, one library call, one line of output. Torch is imported inside commands only."""
